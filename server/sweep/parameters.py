"""The axes of a sweep: what each level changes of a run's config, in the words of ``--set``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.types import StrictModel

SEED = "seed"
WELL_KNOWN = {"data": "data.name", "recovery": "recovery.name", "strategy": "strategy.name", SEED: SEED}
"""Axes whose levels may be plain values -> the key of the config that each value sets."""
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NO_LABEL = re.compile(r"[,=\n]|^\s|\s$|^$")
"""``--only axis=level,level`` has to be read again."""


class Value(StrictModel):
    """One level: its label, the settings of its cells and, where it has its own, their base config."""

    label: str
    settings: tuple[str, ...]
    base: str | None = None


class Parameter(StrictModel):
    """The levels of one axis, in the order in which they were written."""

    name: str
    values: tuple[Value, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The levels' labels."""
        return tuple(value.label for value in self.values)


def label_of(value: Any) -> str:
    """A plain YAML value as the text of a label: ``0.5``, ``mask``, ``true``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_settings(settings: Any) -> tuple[str, ...]:
    """A mapping of keys of a run's config, nested or dotted, as the ``key=value`` that ``--set`` takes.

    A nested mapping sets the keys in it one by one; a dotted key sets its value whole, whatever stood there.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"expected a mapping of keys of a run's config, found {short_repr(settings)}")
    odd = [key for key in settings if not isinstance(key, str) or not key.strip() or "=" in key]
    if odd:
        raise ValueError(f"expected keys of a run's config, found {short_repr(odd[0])}")
    return tuple(words for key, value in settings.items() for words in _words(key, value))


def _words(key: str, value: Any) -> Iterator[str]:
    inside = isinstance(value, Mapping) and value and all(isinstance(k, str) and "." not in k for k in value)
    if inside and "." not in key:
        for name, below in value.items():
            yield from (f"{key}.{words}" for words in _words(name, below))
    else:
        yield f"{key}={as_yaml(value)}"


def as_yaml(value: Any) -> str:
    """``value`` as YAML in one line, as it stands behind ``--set key=``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def without_place(words: Sequence[str]) -> list[str]:
    """``key=value`` words without what they say of ``data.root``, which is a place and no part of what a run is."""
    kept = []
    for word in words:
        key, _, text = word.partition("=")
        value = yaml.safe_load(text) if key.strip() == "data" else None
        if isinstance(value, Mapping) and "root" in value:
            word = f"data={as_yaml({name: item for name, item in value.items() if name != 'root'})}"
        if key.strip() != "data.root":
            kept.append(word)
    return kept


def read_parameters(value: Any) -> tuple[Parameter, ...]:
    """The axes as written, but for the seed, which comes last: cells that differ in it alone stand together, and
    nothing overrides it."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"expected a mapping axis -> levels, found {short_repr(value)}")
    parameters = [_parameter(name, values) for name, values in value.items()]
    return tuple(sorted(parameters, key=lambda parameter: parameter.name == SEED))


def _parameter(name: Any, raw: Any) -> Parameter:
    if not isinstance(name, str) or not _PARAMETER_NAME.fullmatch(name):
        raise ValueError(
            f"expected names of axes (letters, digits, '_', '-'; a letter first), found {short_repr(name)}"
        )
    values = tuple(_seeds(raw) if name == SEED else _values(name, raw))
    if not values:
        raise InvalidValueError(name, "expected at least one level, found none")
    labels = [value.label for value in values]
    for label in labels:
        if _NO_LABEL.search(label):
            raise InvalidValueError(name, f"expected labels without ',' and '=', found {short_repr(label)}")
        if labels.count(label) > 1:
            raise InvalidValueError(name, f"the level '{label}' stands twice")
    return Parameter(name=name, values=values)


def _values(name: str, value: Any) -> Iterator[Value]:
    if isinstance(value, Mapping):
        for label, settings in value.items():
            yield _labelled(name, label, settings)
        return
    if not isinstance(value, list):
        raise InvalidValueError(
            name, f"expected a list of values or a mapping label -> settings, found {short_repr(value)}"
        )
    if name not in WELL_KNOWN:
        told = f"only of {', '.join(WELL_KNOWN)} is it known which key a value sets"
        raise InvalidValueError(name, f"expected a mapping label -> settings, found a list; {told}")
    for plain in value:
        if not isinstance(plain, str):
            raise InvalidValueError(
                name, f"expected names, found {short_repr(plain)}; a mapping label -> settings takes any key"
            )
        yield Value(label=plain, settings=(f"{WELL_KNOWN[name]}={as_yaml(plain)}",))


def _labelled(name: str, label: Any, settings: Any) -> Value:
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise InvalidValueError(name, f"expected labels, found {short_repr(label)}; put it in quotes")
    keys = dict(settings) if isinstance(settings, Mapping) else settings
    base = keys.pop("base", None) if isinstance(keys, dict) else None
    if base is not None and not (isinstance(base, str) and base):
        raise InvalidValueError(f"{name}.{label}.base", f"expected the path of a run config, found {short_repr(base)}")
    try:
        return Value(label=label_of(label), settings=as_settings(keys), base=base)
    except ValueError as error:
        raise InvalidValueError(f"{name}.{label}", str(error)) from None


def _seeds(value: Any) -> Iterator[Value]:
    """A list of seeds, or ``{first: 1, count: 10}``. A lone number is refused: some mean that seed, others so many."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise InvalidValueError(
            SEED, f"expected a list, [{value}] for this seed, or {{count: {value}}} for so many; found {value}"
        )
    if not isinstance(value, list | Mapping):
        raise InvalidValueError(SEED, f"expected a list of seeds, or {{first: 1, count: 5}}, found {short_repr(value)}")
    for seed in _counted(value) if isinstance(value, Mapping) else value:
        yield Value(label=str(_whole(SEED, seed, 0)), settings=(f"{SEED}={seed}",))


def _counted(value: Mapping[str, Any]) -> range:
    for key in value:
        if key not in ("first", "count"):
            raise InvalidValueError(f"{SEED}.{key}", "unknown key. Known keys: first, count")
    if "count" not in value:
        raise InvalidValueError(f"{SEED}.count", "this key is required and was not found")
    first = _whole(f"{SEED}.first", value.get("first", 0), 0)
    return range(first, first + _whole(f"{SEED}.count", value["count"], 1))


def _whole(key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValueError(key, f"expected a whole number of at least {least}, found {short_repr(value)}")
    return value


Settings = Annotated[tuple[str, ...], BeforeValidator(as_settings)]
Parameters = Annotated[tuple[Parameter, ...], BeforeValidator(read_parameters)]

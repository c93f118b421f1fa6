"""The parameters of a sweep (``axes`` in its YAML), their values, and the choice of some of these by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import yaml
from pydantic import BeforeValidator

from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.errors import UsageError, did_you_mean
from fedrecon_core.types import StrictModel

SEED = "seed"
WELL_KNOWN = {"data": "data.name", "recovery": "recovery.name", "strategy": "strategy.name", SEED: SEED}
"""Parameters whose values can be written as a plain list -> the config key that such a value sets."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
NO_LABEL = re.compile(r"[,=\n]|^\s|\s$|^$")
"""Matches labels that ``--only axis=value,value`` could not name."""
LONGEST_SLUG = 120


class Value(StrictModel):
    """One value of a parameter: its label, the config settings (``key=value``) of its trials and, optionally, their
    base config."""

    label: str
    settings: tuple[str, ...]
    base: str | None = None


class Parameter(StrictModel):
    """A parameter and its values, in the order of the YAML."""

    name: str
    values: tuple[Value, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the values."""
        return tuple(value.label for value in self.values)


# --- settings of a run's config -------------------------------------------------------------------------------------


def as_settings(settings: Any) -> tuple[str, ...]:
    """Convert a mapping of config keys, nested or dotted, into settings of the form ``key=value``, as ``--set`` takes.

    The keys inside a nested mapping are set one by one; a dotted key replaces its value as a whole.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"expected a mapping of keys of a run's config, found {short_repr(settings)}")
    for key in settings:
        if not isinstance(key, str) or not key.strip() or "=" in key:
            raise ValueError(f"expected keys of a run's config, found {short_repr(key)}")
    return tuple(setting for key, value in settings.items() for setting in _flatten(key, value))


def _flatten(key: str, value: Any) -> Iterator[str]:
    nested = isinstance(value, Mapping) and value and all(isinstance(k, str) and "." not in k for k in value)
    if nested and "." not in key:
        for name, inner in value.items():
            yield from (f"{key}.{setting}" for setting in _flatten(name, inner))
    else:
        yield f"{key}={as_yaml(value)}"


def as_yaml(value: Any) -> str:
    """Write ``value`` as YAML on one line, as in ``--set key=value``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def without_data_root(settings: Sequence[str]) -> list[str]:
    """Remove ``data.root`` from settings: it depends on the machine, and does not belong to what a run is."""
    kept = []
    for setting in settings:
        key, _, text = setting.partition("=")
        value = yaml.safe_load(text) if key.strip() == "data" else None
        if isinstance(value, Mapping) and "root" in value:
            setting = f"data={as_yaml({name: item for name, item in value.items() if name != 'root'})}"
        if key.strip() != "data.root":
            kept.append(setting)
    return kept


# --- reading ``axes`` -----------------------------------------------------------------------------------------------


def label_of(value: Any) -> str:
    """The label of a plain YAML value: ``0.5``, ``mask``, ``true``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_parameters(raw: Any) -> tuple[Parameter, ...]:
    """Read the section ``axes``. The seed comes last, so that trials that differ only in it are neighbors, and no other
    parameter can override it."""
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(f"expected a mapping axis -> values, found {short_repr(raw)}")
    parameters = []
    for name, written in raw.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"expected names of axes (letters, digits, '_', '-'; a letter first), found {short_repr(name)}"
            )
        values = _read_seeds(written) if name == SEED else _read_values(name, written)
        if not values:
            raise InvalidValueError(name, "expected at least one value, found none")
        labels = [value.label for value in values]
        for label in labels:
            if NO_LABEL.search(label):
                raise InvalidValueError(name, f"expected labels without ',' and '=', found {short_repr(label)}")
            if labels.count(label) > 1:
                raise InvalidValueError(name, f"the value '{label}' occurs twice")
        parameters.append(Parameter(name=name, values=tuple(values)))
    return tuple(sorted(parameters, key=lambda parameter: parameter.name == SEED))


def _read_values(name: str, raw: Any) -> list[Value]:
    if isinstance(raw, Mapping):
        return [_read_value(name, label, settings) for label, settings in raw.items()]
    if not isinstance(raw, list):
        raise InvalidValueError(
            name, f"expected a list of values or a mapping label -> settings, found {short_repr(raw)}"
        )
    if name not in WELL_KNOWN:
        hint = f"only values of {', '.join(WELL_KNOWN)} set a known key"
        raise InvalidValueError(name, f"expected a mapping label -> settings, found a list; {hint}")
    for value in raw:
        if not isinstance(value, str):
            raise InvalidValueError(
                name, f"expected names, found {short_repr(value)}; a mapping label -> settings takes any key"
            )
    return [Value(label=value, settings=(f"{WELL_KNOWN[name]}={as_yaml(value)}",)) for value in raw]


def _read_value(name: str, label: Any, settings: Any) -> Value:
    """Read one entry of a mapping label -> settings, of which the key ``base`` names a base config."""
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


def _read_seeds(raw: Any) -> list[Value]:
    """Read a list of seeds, or ``{first: 1, count: 10}``. A single number is refused because it is ambiguous."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        raise InvalidValueError(
            SEED, f"expected a list, [{raw}] for this seed, or {{count: {raw}}} for that many; found {raw}"
        )
    if isinstance(raw, Mapping):
        for key in raw:
            if key not in ("first", "count"):
                raise InvalidValueError(f"{SEED}.{key}", "unknown key. Known keys: first, count")
        if "count" not in raw:
            raise InvalidValueError(f"{SEED}.count", "this key is required and was not found")
        first = _whole_number(f"{SEED}.first", raw.get("first", 0), 0)
        raw = range(first, first + _whole_number(f"{SEED}.count", raw["count"], 1))
    elif not isinstance(raw, list):
        raise InvalidValueError(SEED, f"expected a list of seeds, or {{first: 1, count: 5}}, found {short_repr(raw)}")
    return [Value(label=str(_whole_number(SEED, seed, 0)), settings=(f"{SEED}={seed}",)) for seed in raw]


def _whole_number(key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValueError(key, f"expected a whole number of at least {least}, found {short_repr(value)}")
    return value


def read_choice(raw: Any) -> Any:
    """Read a mapping parameter -> labels of some of its values; a single value may stand without a list."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"expected a mapping axis -> values, found {short_repr(raw)}")
    return {name: tuple(map(label_of, some if isinstance(some, list) else [some])) for name, some in raw.items()}


def read_labels(raw: Any) -> Any:
    """Read a mapping parameter -> label of one value."""
    choice = read_choice(raw)
    for name, labels in choice.items():
        if len(labels) != 1:
            raise InvalidValueError(name, f"expected one value, found {short_repr(raw[name])}")
    return {name: labels[0] for name, labels in choice.items()}


Settings = Annotated[tuple[str, ...], BeforeValidator(as_settings)]
Parameters = Annotated[tuple[Parameter, ...], BeforeValidator(read_parameters)]
Choice = Annotated[dict[str, tuple[str, ...]], BeforeValidator(read_choice)]
Labels = Annotated[dict[str, str], BeforeValidator(read_labels)]


# --- choosing trials by their labels --------------------------------------------------------------------------------


class Labelled(Protocol):
    """A trial, or its results."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Parameter -> label of its value."""


_Labelled = TypeVar("_Labelled", bound=Labelled)


def exactly(labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The choice of a single value for each parameter in ``labels``."""
    return {name: (label,) for name, label in labels.items()}


def fits(labels: Mapping[str, str], choice: Mapping[str, Iterable[str]]) -> bool:
    """Whether a trial with ``labels`` has one of the chosen values for every parameter of ``choice``."""
    return all(labels[name] in values for name, values in choice.items())


def check_choice(choice: Mapping[str, Iterable[str]], known: Mapping[str, Sequence[str]], key: str) -> None:
    """Raise ``InvalidValueError`` at ``key`` for a parameter, or a value, that the sweep does not have."""
    for name, values in choice.items():
        check_known(name, known, key, "axis")
        for value in values:
            check_known(value, known[name], f"{key}.{name}", "value")


def check_known(name: str, known: Iterable[str], key: str, kind: str) -> None:
    """Raise ``InvalidValueError`` at ``key`` if ``name`` is not ``known``, with the closest known name."""
    names = list(known)
    if name not in names:
        message = f"unknown {kind} '{name}'; known: {', '.join(names)}. {did_you_mean(name, names)}"
        raise InvalidValueError(key, message.rstrip())


def parse_only(only: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Parse the options ``axis=value,value`` of ``--only`` into a choice; lists for the same parameter are joined.

    Raises:
        UsageError: a parameter or value is not ``known``.
    """
    choice: dict[str, list[str]] = {}
    for text in only:
        name, separator, values = text.partition("=")
        if not separator or not values.strip():
            raise UsageError(f"--only expects axis=value,value, found '{text}'")
        choice.setdefault(name.strip(), []).extend(value.strip() for value in values.split(","))
    try:
        check_choice(choice, known, "--only")
    except InvalidValueError as error:
        raise UsageError(f"{error.key}: {error}") from None
    return choice


def no_match(only: Sequence[str]) -> UsageError:
    """The error for a choice that no trial matches."""
    return UsageError(f"--only {' --only '.join(only)}: no trial of this sweep matches")


def select(trials: Sequence[_Labelled], known: Mapping[str, Sequence[str]], only: Sequence[str]) -> list[_Labelled]:
    """The trials that match ``only`` (``parse_only``); ``UsageError`` if there are none."""
    choice = parse_only(only, known)
    found = [trial for trial in trials if fits(trial.labels, choice)]
    if not found:
        raise no_match(only)
    return found


def title_of(labels: Mapping[str, str]) -> str:
    """``recovery=mask, seed=3``."""
    return ", ".join(f"{name}={label}" for name, label in labels.items())


def slug_of(labels: Mapping[str, str]) -> str:
    """Labels as part of a file name, ``mask-rate0.5-seed3``: labels without a letter follow the parameter's name."""
    parts = [label if re.search("[A-Za-z]", label) else name + label for name, label in labels.items()]
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))[:LONGEST_SLUG]

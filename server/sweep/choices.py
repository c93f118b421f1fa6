"""Levels of axes by name, as a sweep's YAML and its commands say which ones are meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BeforeValidator

from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.errors import UsageError, did_you_mean
from server.sweep.parameters import label_of


def _choice(value: Any) -> Any:
    """Axis -> the labels of some of its levels; one level may stand without a list."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping axis -> levels, found {short_repr(value)}")
    return {key: tuple(map(label_of, some if isinstance(some, list) else [some])) for key, some in value.items()}


def _kept(value: Any) -> Any:
    """As ``_choice``; what keeps every cell is no restriction."""
    if isinstance(value, Mapping) and not value:
        raise ValueError("expected at least one axis with the levels that stay, found {}")
    return _choice(value)


def _labels(value: Any) -> Any:
    """Axis -> the label of one level."""
    choice = _choice(value)
    several = [parameter for parameter, labels in choice.items() if len(labels) != 1]
    if several:
        raise InvalidValueError(several[0], f"expected one level, found {short_repr(value[several[0]])}")
    return {parameter: labels[0] for parameter, labels in choice.items()}


LONGEST_SLUG = 120
Choice = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_choice)]
Kept = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_kept)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]


def exactly(labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The choice of one level on each axis of ``labels``."""
    return {parameter: (value,) for parameter, value in labels.items()}


def fits(labels: Mapping[str, str], choice: Mapping[str, Iterable[str]]) -> bool:
    """Whether the cell with ``labels`` has one of the chosen levels on every axis of ``choice``."""
    return all(labels[parameter] in values for parameter, values in choice.items())


def check_choice(choice: Mapping[str, Iterable[str]], known: Mapping[str, list[str]], key: str) -> None:
    """``InvalidValueError`` at ``key`` for an axis, or a level, that the sweep does not have."""
    for parameter, values in choice.items():
        refuse_unknown(parameter, known, key, "axis")
        for value in values:
            refuse_unknown(value, known[parameter], f"{key}.{parameter}", "level")


def refuse_unknown(name: str, known: Iterable[str], key: str, kind: str) -> None:
    """``InvalidValueError`` at ``key`` for a ``name`` that is not ``known``, with the nearest that is."""
    names = list(known)
    if name not in names:
        told = f"unknown {kind} '{name}'; known: {', '.join(names)}. {did_you_mean(name, names)}"
        raise InvalidValueError(key, told.rstrip())


def titled(labels: Mapping[str, str]) -> str:
    """``recovery=mask, seed=3``."""
    return ", ".join(f"{parameter}={value}" for parameter, value in labels.items())


def slug_of(labels: Mapping[str, str]) -> str:
    """Labels as a part of a file's name; one without a letter says of what it is: ``mask-rate0.5-seed3``."""
    words = [value if re.search("[A-Za-z]", value) else parameter + value for parameter, value in labels.items()]
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(words))[:LONGEST_SLUG]


class Labelled(Protocol):
    """What is known by its level on each axis."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Axis -> level."""


_Labelled = TypeVar("_Labelled", bound=Labelled)


def read_only(only: Sequence[str], known: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The choice that every ``parameter=value,value`` of ``only`` makes together; of a parameter that is named twice
    the values of both count. ``UsageError`` for a parameter or value that is not ``known``."""
    choice: dict[str, list[str]] = {}
    for text in only:
        parameter, separator, values = text.partition("=")
        if not separator or not values.strip():
            raise UsageError(f"--only expects axis=level,level, found '{text}'")
        choice.setdefault(parameter.strip(), []).extend(value.strip() for value in values.split(","))
    try:
        check_choice(choice, known, "--only")
    except InvalidValueError as error:
        raise UsageError(f"{error.key}: {error}") from None
    return choice


def chosen(trials: Sequence[_Labelled], known: Mapping[str, list[str]], only: Sequence[str]) -> list[_Labelled]:
    """Those of ``trials`` that ``only`` takes (``read_only``)."""
    choice = read_only(only, known)
    found = [trial for trial in trials if fits(trial.labels, choice)]
    if not found:
        raise nothing_left(only)
    return found


def nothing_left(only: Sequence[str]) -> UsageError:
    """The error of a choice that takes no trial."""
    return UsageError(f"--only {' --only '.join(only)}: no cell of this sweep is left")

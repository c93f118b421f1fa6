"""Levels of axes by name, as a sweep's YAML and its commands say which ones are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from fedrecon_core.faults import MisfitError, shown
from fedrecon_core.nearest import did_you_mean
from server.sweep.axes import label_of


def _choice(value: Any) -> Any:
    """Axis -> the labels of some of its levels; one level may stand without a list."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping axis -> levels, found {shown(value)}")
    return {key: tuple(map(label_of, some if isinstance(some, list) else [some])) for key, some in value.items()}


def _kept(value: Any) -> Any:
    """As ``_choice``; what keeps every cell is no restriction."""
    if isinstance(value, Mapping) and not value:
        raise ValueError("expected at least one axis with the levels that stay, found {}")
    return _choice(value)


def _labels(value: Any) -> Any:
    """Axis -> the label of one level."""
    choice = _choice(value)
    several = [axis for axis, labels in choice.items() if len(labels) != 1]
    if several:
        raise MisfitError(several[0], f"expected one level, found {shown(value[several[0]])}")
    return {axis: labels[0] for axis, labels in choice.items()}


Choice = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_choice)]
Kept = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_kept)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]


def exactly(labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The choice of one level on each axis of ``labels``."""
    return {axis: (level,) for axis, level in labels.items()}


def fits(labels: Mapping[str, str], choice: Mapping[str, Iterable[str]]) -> bool:
    """Whether the cell with ``labels`` has one of the chosen levels on every axis of ``choice``."""
    return all(labels[axis] in levels for axis, levels in choice.items())


def check_choice(choice: Mapping[str, Iterable[str]], known: Mapping[str, list[str]], key: str) -> None:
    """``MisfitError`` at ``key`` for an axis, or a level, that the sweep does not have."""
    for axis, levels in choice.items():
        refuse_unknown(axis, known, key, "axis")
        for level in levels:
            refuse_unknown(level, known[axis], f"{key}.{axis}", "level")


def refuse_unknown(name: str, known: Iterable[str], key: str, kind: str) -> None:
    """``MisfitError`` at ``key`` for a ``name`` that is not ``known``, with the nearest that is."""
    names = list(known)
    if name not in names:
        told = f"unknown {kind} '{name}'; known: {', '.join(names)}. {did_you_mean(name, names)}"
        raise MisfitError(key, told.rstrip())

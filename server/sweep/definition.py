"""A sweep as it is written: the strict YAML that names its axes, what they leave out, and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fedrecon_core.errors import ConfigError
from fedrecon_core.faults import MisfitError, explain, shown
from fedrecon_core.nearest import did_you_mean
from fedrecon_core.registry import METRICS, discover
from fedrecon_core.settings import read_yaml
from fedrecon_core.types import Frozen
from server.prepare import PACKAGES
from server.sweep.axes import Axes, Settings, label_of


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


class Restriction(Frozen):
    """Of the cells that fit ``where`` (without it: of all), only those that fit ``keep`` stay in the matrix."""

    where: Choice = Field(default_factory=dict)
    keep: Kept

    def keeps(self, labels: Mapping[str, str]) -> bool:
        """Whether the cell with ``labels`` (axis -> level) stays."""
        return not fits(labels, self.where) or fits(labels, self.keep)


class Table(Frozen):
    """How results are shown: axes as rows and columns, the metrics, and the level that others are compared with."""

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    baseline: Labels = Field(default_factory=dict)


class Definition(Frozen):
    """A whole sweep. ``base`` is a run config, relative to this file; ``set`` changes it in every cell, then the levels
    of the axes do, in the order in which the axes are written, the seed last. ``keep_checkpoints`` leaves those of
    complete cells, which nothing needs any more."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    base: str | None = Field(default=None, pattern=r"\S")
    set: Settings = ()
    axes: Axes
    only: tuple[Restriction, ...] = ()
    table: Table | None = None
    keep_checkpoints: bool = False

    @property
    def labels(self) -> dict[str, list[str]]:
        """Axis -> the labels of its levels."""
        return {axis.name: list(axis.labels) for axis in self.axes}

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        """Every cell has a base, and no cell has two."""
        own = {axis.name: [level.label for level in axis.levels if level.base is None] for axis in self.axes}
        choosing = [axis.name for axis in self.axes if any(level.base for level in axis.levels)]
        if len(choosing) > 1:
            raise MisfitError("axes", f"only one axis can choose the base, found {' and '.join(choosing)}")
        if self.base is None and (not choosing or own[choosing[0]]):
            lacking = f"level '{own[choosing[0]][0]}' of {choosing[0]} has none" if choosing else "no level has one"
            raise MisfitError("base", f"this key is required unless every level of one axis has its own; {lacking}")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        for number, restriction in enumerate(self.only):
            check_choice(restriction.where, self.labels, f"only.{number}.where")
            check_choice(restriction.keep, self.labels, f"only.{number}.keep")
        if self.table is not None:
            self._known_in(self.table)
        return self

    def _known_in(self, table: Table) -> None:
        named = [*(("rows", axis) for axis in table.rows), *(("columns", axis) for axis in table.columns)]
        for number, (key, axis) in enumerate(named):
            refuse_unknown(axis, self.labels, f"table.{key}", "axis")
            if axis in [other for _, other in named[:number]]:
                raise MisfitError(f"table.{key}", f"the axis '{axis}' stands twice in the table")
        for metric in table.metrics:
            refuse_unknown(metric, _metrics(), "table.metrics", "metric")
        check_choice({axis: (level,) for axis, level in table.baseline.items()}, self.labels, "table.baseline")


def _metrics() -> list[str]:
    """The metrics that are registered, a user's own among them, and the loss, which every score has."""
    discover(PACKAGES)
    return [*METRICS.names(), "loss"]


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


def read_definition(path: Path) -> Definition:
    """The sweep in the YAML file ``path``; whatever is wrong with it is a ``ConfigError`` of one line."""
    return parse_definition(read_yaml(path))


def parse_definition(raw: Mapping[str, Any]) -> Definition:
    """A checked sweep from plain mappings."""
    try:
        return Definition.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, raw, Definition)) from None

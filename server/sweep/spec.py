"""A sweep as it is written: the strict YAML that names its axes, what they leave out, and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import read_yaml
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.files import user_path
from fedrecon_core.types import StrictModel
from server.analysis.published import read_published
from server.commands.path_kinds import Kind, expect
from server.sweep.choices import Choice, Kept, check_choice, fits
from server.sweep.parameters import Parameters, Settings
from server.sweep.table import Table


class Restriction(StrictModel):
    """Of the cells that fit ``where`` (without it: of all), only those that fit ``keep`` stay in the matrix."""

    where: Choice = Field(default_factory=dict)
    keep: Kept

    def keeps(self, labels: Mapping[str, str]) -> bool:
        """Whether the cell with ``labels`` (axis -> level) stays."""
        return not fits(labels, self.where) or fits(labels, self.keep)


class Definition(StrictModel):
    """A whole sweep. ``base`` is a run config, relative to this file; ``set`` changes it in every cell, then the levels
    of the axes do, in the order in which the axes are written, the seed last. ``keep_checkpoints`` leaves those of
    complete cells, which nothing needs any more."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    base: str | None = Field(default=None, pattern=r"\S")
    set: Settings = ()
    axes: Parameters
    only: tuple[Restriction, ...] = ()
    table: Table | None = None
    keep_checkpoints: bool = False

    @property
    def labels(self) -> dict[str, list[str]]:
        """Axis -> the labels of its levels."""
        return {parameter.name: list(parameter.labels) for parameter in self.axes}

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        """Every cell has a base, and no cell has two."""
        own = {
            parameter.name: [value.label for value in parameter.values if value.base is None] for parameter in self.axes
        }
        choosing = [parameter.name for parameter in self.axes if any(value.base for value in parameter.values)]
        if len(choosing) > 1:
            raise InvalidValueError("axes", f"only one axis can choose the base, found {' and '.join(choosing)}")
        if self.base is None and (not choosing or own[choosing[0]]):
            lacking = f"level '{own[choosing[0]][0]}' of {choosing[0]} has none" if choosing else "no level has one"
            raise InvalidValueError(
                "base", f"this key is required unless every level of one axis has its own; {lacking}"
            )
        return self

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        for number, restriction in enumerate(self.only):
            check_choice(restriction.where, self.labels, f"only.{number}.where")
            check_choice(restriction.keep, self.labels, f"only.{number}.keep")
        if self.table is not None:
            self.table.check(self.labels)
        return self


def read_definition(path: Path) -> Definition:
    """The sweep in the YAML file ``path``; whatever is wrong with it is a ``ConfigError`` of one line."""
    found = parse_definition(read_yaml(path))
    for base in dict.fromkeys((found.base, *(value.base for parameter in found.axes for value in parameter.values))):
        if base is not None:
            expect(user_path(base, path.resolve().parent, "base"), Kind.RUN_CONFIG)
    if found.table is None or found.table.reference is None:
        return found
    reference = user_path(found.table.reference, path.resolve().parent, "table.reference")
    if not reference.is_file():
        told = "expected a CSV of published values, relative to the sweep's file"
        raise ConfigError(f"table.reference: {told}, found no file {reference}")
    try:
        read_published(reference, found.labels)
    except DataError as error:  # now, and not in the report after hours
        raise ConfigError(f"table.reference: {error}") from None
    return found.model_copy(update={"table": found.table.model_copy(update={"reference": str(reference)})})


def parse_definition(raw: Mapping[str, Any]) -> Definition:
    """A checked sweep from plain mappings."""
    try:
        return Definition.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, raw, Definition)) from None

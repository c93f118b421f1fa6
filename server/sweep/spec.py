"""The YAML of a sweep: base config, parameters, restrictions and the layout of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import read_yaml
from fedrecon_core.errors import ConfigError
from fedrecon_core.files import user_path
from fedrecon_core.registry import METRIC_PACKAGES, METRICS, discover, use_plugins
from fedrecon_core.types import StrictModel
from server.runs.readers import yaml_in
from server.sweep.parameters import SEED, Choice, Labels, Parameters, Settings, check_choice, check_known, exactly, fits
from server.sweep.paths import Kind, expect

LOSS = "loss"
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""A list of names; a single name may stand without a list."""


class Table(StrictModel):
    """The section ``table``: how results are shown.

    ``rows`` and ``columns`` name parameters (default: the parameters in their order), ``metrics`` the scores (default:
    the metric that selected the best round). ``baseline`` is the value that others are compared with. Values in
    ``bounds`` are shown, but not ranked. ``reference`` is a CSV of published values, relative to the sweep's file.
    """

    rows: Names = ()
    columns: Names = ()
    metrics: Names = ()
    baseline: Labels = Field(default_factory=dict)
    bounds: Choice = Field(default_factory=dict)
    reference: str | None = Field(default=None, pattern=r"\S")

    def check(self, parameters: Mapping[str, Sequence[str]], key: str = "table") -> None:
        """Raise ``InvalidValueError`` below ``key`` for a name that the sweep does not have. ``parameters`` maps the
        names of its parameters to the labels of their values."""
        no_seed = f"expected axes to compare, found {SEED}: table entries are means over it"
        used: list[str] = []
        for place, name in [*(("rows", name) for name in self.rows), *(("columns", name) for name in self.columns)]:
            check_known(name, parameters, f"{key}.{place}", "axis")
            if name == SEED:
                raise InvalidValueError(f"{key}.{place}", no_seed)
            if name in used:
                raise InvalidValueError(f"{key}.{place}", f"the axis '{name}' occurs twice in the table")
            used.append(name)
        for metric in self.metrics:
            check_known(metric, metric_names(), f"{key}.metrics", "metric")
        for place, choice in (("baseline", exactly(self.baseline)), ("bounds", self.bounds)):
            check_choice(choice, parameters, f"{key}.{place}")
            if SEED in choice:
                raise InvalidValueError(f"{key}.{place}", no_seed)


def metric_names() -> list[str]:
    """The registered metrics, including those of plugins, and the loss."""
    discover(METRIC_PACKAGES)
    return [*METRICS.names(), LOSS]


class Restriction(StrictModel):
    """An entry of ``only``: of the trials that match ``where`` (default: all), only those that match ``keep`` stay."""

    where: Choice = Field(default_factory=dict)
    keep: Choice = Field(min_length=1)

    def keeps(self, labels: Mapping[str, str]) -> bool:
        """Whether the trial with ``labels`` (parameter -> value) stays."""
        return not fits(labels, self.where) or fits(labels, self.keep)


class Definition(StrictModel):
    """A whole sweep, as its YAML defines it.

    ``base`` is a run config, relative to the sweep's file. Every trial applies ``set`` to it, then the settings of its
    values in the order of ``axes``, the seed last. Checkpoints of complete trials are deleted unless
    ``keep_checkpoints`` is set.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    base: str | None = Field(default=None, pattern=r"\S")
    set: Settings = ()
    axes: Parameters
    only: tuple[Restriction, ...] = ()
    table: Table | None = None
    keep_checkpoints: bool = False

    @property
    def labels(self) -> dict[str, list[str]]:
        """Parameter -> the labels of its values."""
        return {parameter.name: list(parameter.labels) for parameter in self.axes}

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Every trial has one base, and all names exist."""
        choosing = [parameter for parameter in self.axes if any(value.base for value in parameter.values)]
        if len(choosing) > 1:
            names = " and ".join(parameter.name for parameter in choosing)
            raise InvalidValueError("axes", f"only one axis can choose the base, found {names}")
        if self.base is None:
            required = "this key is required unless every value of one axis has its own"
            if not choosing:
                raise InvalidValueError("base", f"{required}; no value has one")
            for value in choosing[0].values:
                if value.base is None:
                    raise InvalidValueError(
                        "base", f"{required}; the value '{value.label}' of {choosing[0].name} has none"
                    )
        for number, restriction in enumerate(self.only):
            check_choice(restriction.where, self.labels, f"only.{number}.where")
            check_choice(restriction.keep, self.labels, f"only.{number}.keep")
        if self.table is not None:
            self.table.check(self.labels)
        return self


def read_definition(path: Path) -> Definition:
    """Read and check the sweep in the YAML file ``path``, and make the path of its ``reference`` absolute.

    Raises:
        ConfigError: the file is not a valid sweep; the message is one line.
    """
    raw, folder = read_yaml(path), path.resolve().parent
    use_plugins(_plugin_names(raw, folder))  # the table may show their metrics
    definition = parse_definition(raw)
    values = [value for parameter in definition.axes for value in parameter.values]
    for base in dict.fromkeys((definition.base, *(value.base for value in values))):
        if base is not None:
            expect(user_path(base, folder, "base"), Kind.RUN_CONFIG)
    table = definition.table
    if table is None or table.reference is None:
        return definition
    reference = user_path(table.reference, folder, "table.reference")
    if not reference.is_file():
        expected = "expected a CSV of published values, relative to the sweep's file"
        raise ConfigError(f"table.reference: {expected}, found no file {reference}")
    return definition.model_copy(update={"table": table.model_copy(update={"reference": str(reference)})})


def _plugin_names(raw: Mapping[str, Any], folder: Path) -> list[str]:
    """The plugins in ``set``, else those of the base config. Anything malformed is left to its check."""
    base, changes = raw.get("base"), raw.get("set")
    names = changes.get("plugins") if isinstance(changes, Mapping) else None
    if names is None and isinstance(base, str) and (folder / base).is_file():
        names = yaml_in(folder / base).get("plugins")
    return [str(name) for name in names] if isinstance(names, list) else []


def parse_definition(raw: Mapping[str, Any]) -> Definition:
    """Check a sweep given as plain mappings; ``ConfigError`` if it is not valid."""
    try:
        return Definition.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, raw, Definition)) from None

"""The cells of a sweep: every combination of levels that stays, each with its resolved, checked config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from fedrecon_core.config import RunConfig
from fedrecon_core.config.loading import override, read_yaml
from fedrecon_core.errors import ConfigError, UsageError
from fedrecon_core.files import user_path
from server.runs.setup import check_trackers, resolve_config
from server.sweep.choices import slug_of, titled
from server.sweep.faults import Faults
from server.sweep.identity import config_sha256
from server.sweep.parameters import SEED, Value, as_yaml
from server.sweep.spec import Definition
from server.trackers.choice import untracked_unless_asked

ENGINE = "engine={name: inprocess}"
"""Every cell is a run in one process, whatever its base says; how many run at a time is the sweep's affair."""
SHOWN_DIGITS = 10


@dataclass(frozen=True)
class Trial:
    """One run of the matrix: axis -> level, and the config that they resolve to."""

    labels: Mapping[str, str]
    config: RunConfig

    @cached_property
    def sha256(self) -> str:
        """The hash of the config (``config_sha256``)."""
        return config_sha256(self.config)

    @property
    def title(self) -> str:
        """The cell for people: ``recovery=mask, seed=3``."""
        return titled(self.labels)

    @property
    def slug(self) -> str:
        """The labels as a part of a folder's name."""
        return slug_of(self.labels)

    @property
    def folder(self) -> str:
        """The name of its run directory."""
        return f"{self.slug}-{self.sha256[:SHOWN_DIGITS]}"

    @property
    def family(self) -> tuple[str, ...]:
        """What it shares with the cells that differ from it in the seed alone."""
        return _family(self.labels)


def matrix(definition: Definition, folder: Path, settings: Sequence[str] = ()) -> list[Trial]:
    """Every cell of ``definition``, in the order of its axes, each checked as ``fedrecon run`` checks a config. Whether
    their data are there is left to those that are run (``check_sources``).

    Args:
        definition: the sweep.
        folder: where it was read from; its ``base`` paths are relative to it.
        settings: ``key=value`` for every cell, after all axes.

    Raises:
        ConfigError: configs of cells cannot be used (which ones is told), two cells are the same run, or none is left.
    """
    _refuse_what_does_nothing(definition, settings)
    families: dict[tuple[str, ...], list[_Wanted]] = {}
    for wanted in _combinations(definition, folder):
        families.setdefault(_family(wanted.labels), []).append(wanted)
    if not families:
        raise ConfigError("only: no cell of the matrix is left; loosen a restriction")
    faults, trials = Faults(), []
    for family in families.values():  # seeds are whole numbers, and nothing else in a config depends on which
        try:
            config = _resolved(family[0], settings)
        except UsageError as error:
            faults.add(str(error), [wanted.labels for wanted in family])
        else:
            trials += [Trial(wanted.labels, config.model_copy(update=wanted.seed)) for wanted in family]
    if faults:
        raise ConfigError(faults.told([wanted.labels for family in families.values() for wanted in family]))
    _refuse_doubles(trials)
    return trials


def _combinations(definition: Definition, folder: Path) -> Iterator[_Wanted]:
    """Those of all levels that no restriction leaves out, in the order of the axes."""
    for values in product(*(parameter.values for parameter in definition.axes)):
        labels = {parameter.name: value.label for parameter, value in zip(definition.axes, values, strict=True)}
        if all(restriction.keeps(labels) for restriction in definition.only):
            yield _Wanted(definition, folder, values, labels)


def _family(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(value for parameter, value in labels.items() if parameter != SEED)


def _refuse_what_does_nothing(definition: Definition, settings: Sequence[str]) -> None:
    """Who sets the seed beside an axis of seeds, or an engine, expects an effect, and there is none to have."""
    values = [
        (f"axes.{parameter.name}.{value.label}", value) for parameter in definition.axes for value in parameter.values
    ]
    places = {"--set": settings, "set": definition.set, **{key: value.settings for key, value in values}}
    for place, words in places.items():
        keys = [word.partition("=")[0].strip() for word in words]
        if SEED in keys and SEED in definition.labels and not place.startswith(f"axes.{SEED}."):
            raise ConfigError(f"{place}: the seed is an axis of this sweep; --only seed=... runs some of its levels")
        engine = next((key for key in keys if key.split(".")[0] == "engine"), None)
        if engine:
            told = "every cell is a run in one process; --workers and --ray-address say how many at a time, and where"
            raise ConfigError(f"{place}: expected no key of the engine, found {engine}: {told}")


@dataclass(frozen=True)
class _Wanted:
    """A combination of levels, before it is a config."""

    definition: Definition
    folder: Path
    values: Sequence[Value]
    labels: Mapping[str, str]

    @property
    def seed(self) -> dict[str, int]:
        """The seed as a key of a config, where it is an axis."""
        return {SEED: int(self.labels[SEED])} if SEED in self.labels else {}

    @property
    def base(self) -> Path:
        """The path of the run config that everything is changed of."""
        own = next((value.base for value in self.values if value.base), self.definition.base)
        path = user_path(str(own), self.folder, "base")
        if not path.is_file():
            raise ConfigError(f"base: expected a run config, relative to the sweep's file, found no file {path}")
        return path

    def raw(self, settings: Sequence[str]) -> dict[str, Any]:
        """The base with ``set``, the levels in their order and ``settings`` applied, each as a whole after the one
        before: what a later one sets counts, however the key is written."""
        raw = read_yaml(self.base)
        for words in (self.definition.set, *(value.settings for value in self.values), settings):
            raw = override(raw, words)
        return raw


def _resolved(wanted: _Wanted, settings: Sequence[str]) -> RunConfig:
    raw = wanted.raw(settings)
    _refuse_deployment(raw)
    config = resolve_config(wanted.base, [*(f"{key}={as_yaml(value)}" for key, value in raw.items()), ENGINE])
    check_trackers(config)
    return untracked_unless_asked(config)


def _refuse_deployment(raw: Mapping[str, Any]) -> None:
    engine = raw.get("engine")
    name = engine.get("name") if isinstance(engine, Mapping) else engine
    if name == "deployment":
        raise ConfigError("engine.name: expected a simulation, found 'deployment'; a sweep runs each cell in a process")


def _refuse_doubles(trials: Iterable[Trial]) -> None:
    """Two cells that are the same run are a mistake in the axes, and would be one result that is counted twice. Nor can
    their results be told apart where another ``data.root`` is all that they differ in: a root is a place, which changes
    from machine to machine."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        same = seen.setdefault(trial.sha256, trial)
        if same is trial:
            continue
        told = "the same config: no axis changes anything between them"
        if same.config.data.root != trial.config.data.root:
            told = "configs that differ in data.root alone, which is no part of what a run is: give each its own `name`"
        raise ConfigError(f"axes: the cells {same.title} and {trial.title} have {told}")

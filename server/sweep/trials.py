"""The trials of a sweep: every combination of values that ``only`` keeps, each with its resolved, checked config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TypeVar

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.config.loading import override, read_yaml
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset, forget_datasets, load_dataset
from fedrecon_core.errors import ConfigError, DataError, UsageError, describe_error, one_line
from fedrecon_core.files import user_path
from server.runs.formatting import listing
from server.runs.readers import yaml_in
from server.runs.setup import check_root, check_trackers, checked_recovery, resolve_raw
from server.sweep.parameters import SEED, Value, exactly, fits, slug_of, title_of
from server.sweep.spec import Definition
from server.trackers.choice import untracked_unless_asked

ENGINE = {"name": "inprocess"}
"""Every trial runs in one process, whatever its base config says; the sweep decides how many run at a time."""
SHOWN_DIGITS = 10
SHOWN_TRIALS = 3
_Key = TypeVar("_Key", str, tuple[str, ...])


# --- identity -------------------------------------------------------------------------------------------------------


def config_sha256(config: RunConfig) -> str:
    """SHA-256 (hex) of the canonical JSON of a resolved config without ``engine``, ``data.root`` and ``tracking``.

    These keys do not influence results: they are the same bytes on every engine, and the data may have another path on
    another machine, where copied results must be recognized. The data are identified by ``data.name`` and its other
    keys only.
    """
    plain = config.model_dump(mode="json", exclude={"tracking"})
    plain["data"].pop("root", None)
    del plain["engine"]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class StoredConfig:
    """A config file of a run: its hash (``config_sha256``) and its ``data.root``; None if it has none."""

    sha256: str | None = None
    root: str | None = None


def read_stored_config(path: Path) -> StoredConfig:
    """Read the identity of the config file ``path``. Keys added since it was written get their defaults,
    which reproduce the earlier behavior. The folder of the data need not exist; a damaged file has no hash."""
    raw = yaml_in(path)
    data = raw.get("data")
    if not isinstance(data, Mapping):
        return StoredConfig()
    root = data.get("root")
    try:
        config = parse({**raw, "data": {key: value for key, value in data.items() if key != "root"}})
    except (ValueError, TypeError, KeyError, ConfigError):
        return StoredConfig(None, None if root is None else str(root))
    return StoredConfig(config_sha256(config), None if root is None else str(root))


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its labels (parameter -> value) and the config that they resolve to."""

    labels: Mapping[str, str]
    config: RunConfig

    @cached_property
    def sha256(self) -> str:
        """The hash of the config (``config_sha256``)."""
        return config_sha256(self.config)

    @property
    def title(self) -> str:
        """``recovery=mask, seed=3``."""
        return title_of(self.labels)

    @property
    def slug(self) -> str:
        """The labels as part of a folder's name."""
        return slug_of(self.labels)

    @property
    def folder(self) -> str:
        """The name of its run directory."""
        return f"{self.slug}-{self.sha256[:SHOWN_DIGITS]}"

    @property
    def family(self) -> tuple[str, ...]:
        """The labels without the seed: trials of a family differ in the seed only."""
        return family_of(self.labels)


def family_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The labels in ``labels`` without that of the seed."""
    return tuple(label for name, label in labels.items() if name != SEED)


# --- from a definition to trials ------------------------------------------------------------------------------------


class Faults:
    """Faults of trials, collected so that each is reported once, with the trials that have it."""

    def __init__(self) -> None:
        self._trials: dict[str, list[Mapping[str, str]]] = {}

    def add(self, fault: str, trials: Sequence[Mapping[str, str]]) -> None:
        """Record that the trials with these labels have ``fault``."""
        self._trials.setdefault(fault, []).extend(trials)

    def __bool__(self) -> bool:
        return bool(self._trials)

    def message(self, every: Sequence[Mapping[str, str]]) -> str:
        """All faults in one line, each after the trials that have it, out of ``every`` trial of the sweep."""
        return "; ".join(f"{self._which(trials, every)}: {fault}" for fault, trials in self._trials.items())

    @staticmethod
    def _which(trials: Sequence[Mapping[str, str]], every: Sequence[Mapping[str, str]]) -> str:
        """Name ``trials`` by the labels that only they have or, if there are none, by their titles."""
        if len(trials) == 1:
            return f"trial {title_of(trials[0])}"
        if len(trials) == len(every):
            return f"all {len(trials)} trials"
        shared = {name: label for name, label in trials[0].items() if all(trial[name] == label for trial in trials)}
        if sum(fits(trial, exactly(shared)) for trial in every) == len(trials):
            varying = {name: label for name, label in shared.items() if any(trial[name] != label for trial in every)}
            return f"the {len(trials)} trials with {title_of(varying)}"
        return f"{len(trials)} trials ({listing([title_of(trial) for trial in trials], SHOWN_TRIALS)})"


def build_trials(definition: Definition, folder: Path, settings: Sequence[str] = ()) -> list[Trial]:
    """Build every trial of ``definition``, in the order of its axes, and check its config as ``fedrecon run`` does.

    The data are checked later, and only for the trials that will run (``check_data``).

    Args:
        definition: the sweep.
        folder: the folder of its file; ``base`` paths are relative to it.
        settings: ``key=value`` for every trial, applied after all axes.

    Raises:
        ConfigError: some configs are not valid (the message names their trials), two trials are the same run, or no
            trial is left.
    """
    _check_settings(definition, settings)
    families: dict[tuple[str, ...], list[tuple[dict[str, str], tuple[Value, ...]]]] = {}
    for values in product(*(parameter.values for parameter in definition.axes)):
        labels = {parameter.name: value.label for parameter, value in zip(definition.axes, values, strict=True)}
        if all(restriction.keeps(labels) for restriction in definition.only):
            families.setdefault(family_of(labels), []).append((labels, values))
    if not families:
        raise ConfigError("only: no trial is left; loosen a restriction")
    faults, trials = Faults(), []
    for family in families.values():  # a config is resolved once per family: nothing else in it depends on the seed
        try:
            config = _resolve(definition, folder, family[0][1], settings)
        except UsageError as error:
            faults.add(str(error), [labels for labels, _ in family])
            continue
        for labels, _ in family:
            seed = {SEED: int(labels[SEED])} if SEED in labels else {}
            trials.append(Trial(labels, config.model_copy(update=seed)))
    if faults:
        raise ConfigError(faults.message([labels for family in families.values() for labels, _ in family]))
    _check_duplicates(trials)
    return trials


def _check_settings(definition: Definition, settings: Sequence[str]) -> None:
    """Refuse settings that would have no effect: the seed, if it is an axis, and any key of the engine."""
    places = {"--set": settings, "set": definition.set}
    for parameter in definition.axes:
        places |= {f"axes.{parameter.name}.{value.label}": value.settings for value in parameter.values}
    for place, found in places.items():
        keys = [setting.partition("=")[0].strip() for setting in found]
        if SEED in keys and SEED in definition.labels and not place.startswith(f"axes.{SEED}."):
            raise ConfigError(f"{place}: the seed is an axis of this sweep; --only seed=... runs some of its values")
        engine = next((key for key in keys if key.split(".")[0] == "engine"), None)
        if engine:
            hint = "a trial runs in one process; --workers and --ray-address set how many run at a time, and where"
            raise ConfigError(f"{place}: expected no key of the engine, found {engine}: {hint}")


def _resolve(definition: Definition, folder: Path, values: Sequence[Value], settings: Sequence[str]) -> RunConfig:
    """The config of a trial: the base with ``set``, then ``values`` in their order, then ``settings``. Each is applied
    to the result of the one before, so that the last one counts, however its key is written."""
    base = user_path(str(next((value.base for value in values if value.base), definition.base)), folder, "base")
    if not base.is_file():
        raise ConfigError(f"base: expected a run config, relative to the sweep's file, found no file {base}")
    raw = read_yaml(base)
    for changes in (definition.set, *(value.settings for value in values), settings):
        raw = override(raw, changes)
    engine = raw.get("engine")
    if (engine.get("name") if isinstance(engine, Mapping) else engine) == "deployment":
        hint = "a sweep runs each trial in a process"
        raise ConfigError(f"engine.name: expected a simulation, found 'deployment'; {hint}")
    config = resolve_raw({**raw, "engine": ENGINE}, base)
    check_trackers(config)
    return untracked_unless_asked(config)


def _check_duplicates(trials: Iterable[Trial]) -> None:
    """Refuse two trials that are the same run: a mistake in the axes, which would count one result twice. This includes
    trials that differ in ``data.root`` only, which is not part of what a run is."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        same = seen.setdefault(trial.sha256, trial)
        if same is trial:
            continue
        fault = "the same config: no axis changes anything between them"
        if same.config.data.root != trial.config.data.root:
            fault = "configs that differ in data.root only, which does not identify a run: give each its own `name`"
        raise ConfigError(f"axes: the trials {same.title} and {trial.title} have {fault}")


# --- their data -----------------------------------------------------------------------------------------------------


def check_data(trials: Sequence[Trial], proven: Collection[tuple[str, ...]] = ()) -> None:
    """Open each data source of ``trials`` once and check that their configs fit it, before the first trial starts.

    Families in ``proven`` have at least one complete trial and are not checked against the data. A fault that only some
    seeds of a family have, such as masks that hide every training sample, is not reported here: those trials fail.

    Raises:
        DataError: faults were found; the message names the trials that have them.
    """
    faults = Faults()
    for same_data in _grouped(trials, lambda trial: trial.config.data.model_dump_json()):
        try:
            check_root(same_data[0].config)
            dataset = load_dataset(same_data[0].config)
        except Exception as error:  # a user's own loader may raise anything, and so would each of the trials
            faults.add(one_line(describe_error(error)), [trial.labels for trial in same_data])
            continue
        unproven = [trial for trial in same_data if trial.family not in proven]
        for family in _grouped(unproven, lambda trial: trial.family):
            found = []
            for trial in family:
                fault = data_fault(trial, dataset)
                if not fault:
                    break
                found.append(fault)
            else:
                faults.add(found[0], [trial.labels for trial in family])
    forget_datasets()  # trials are processes of their own
    if faults:
        message = faults.message([trial.labels for trial in trials])
        raise DataError(f"{message}. No trial was started; --only axis=value runs those without a fault")


def data_fault(trial: Trial, dataset: Dataset) -> str:
    """The reason why the config of ``trial`` cannot be run with ``dataset``; empty if it can."""
    try:
        checked_recovery(trial.config, dataset.spec)
        allocate(dataset, trial.config)
    except Exception as error:  # as in ``check_data``
        return one_line(describe_error(error))
    return ""


def _grouped(trials: Iterable[Trial], key: Callable[[Trial], _Key]) -> list[list[Trial]]:
    """Group trials by ``key``, in the order of first occurrence."""
    groups: dict[_Key, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    return list(groups.values())

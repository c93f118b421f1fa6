"""The data of a sweep, opened and tried with its configs before the first cell starts: a wrong path, or a rate for a
modality that there is not, must not show after hours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset, forget_datasets, load_dataset
from fedrecon_core.errors import DataError, describe_error, one_line
from server.runs.setup import check_root, checked_recovery
from server.sweep.faults import Faults
from server.sweep.trials import Trial

_Key = TypeVar("_Key", str, tuple[str, ...])


def check_sources(trials: Sequence[Trial], proven: Collection[tuple[str, ...]] = ()) -> None:
    """Open each distinct data source of ``cells`` once, as their first cell will, and see that the config of each
    family can be run with it, but for those that are ``proven``: some cell of theirs is complete.

    Raises:
        DataError: some cannot; which cells have what fault.
    """
    faults = Faults()
    for own in _grouped(trials, lambda trial: trial.config.data.model_dump_json()):
        try:
            check_root(own[0].config)
            dataset = load_dataset(own[0].config)
        except Exception as error:  # a user's own loader may raise anything, and so would each of the cells
            faults.add(one_line(describe_error(error)), [trial.labels for trial in own])
            continue
        for family in _grouped([trial for trial in own if trial.family not in proven], lambda trial: trial.family):
            told = _misfit(family, dataset)
            if told:
                faults.add(told, [trial.labels for trial in family])
    forget_datasets()  # cells are processes of their own
    if faults:
        every = [trial.labels for trial in trials]
        raise DataError(f"{faults.told(every)}. No cell was started; --only axis=level runs those without a fault")


def _grouped(trials: Iterable[Trial], key: Callable[[Trial], _Key]) -> list[list[Trial]]:
    """The cells of each key, in their order."""
    groups: dict[_Key, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    return list(groups.values())


def _misfit(family: Sequence[Trial], dataset: Dataset) -> str:
    """Why none of ``family`` can be run; empty where one can. What only some of its seeds draw, such as masks that hide
    every training sample, fails in those cells and stops no other."""
    first = ""
    for trial in family:
        told = _fault(trial, dataset)
        if not told:
            return ""
        first = first or told
    return first


def _fault(trial: Trial, dataset: Dataset) -> str:
    try:
        checked_recovery(trial.config, dataset.spec)
        allocate(dataset, trial.config)
    except Exception as error:  # as above
        return one_line(describe_error(error))
    return ""

"""The data of a sweep, opened and tried with its configs before the first cell starts: a wrong path, or a rate for a
modality that there is not, must not show after hours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset, forget_datasets, load_dataset
from fedrecon_core.errors import DataError, one_line, words_of
from server.runs.setup import check_root, checked_recovery
from server.sweep.faults import Faults
from server.sweep.trials import Cell

_Key = TypeVar("_Key", str, tuple[str, ...])


def check_sources(cells: Sequence[Cell], proven: Collection[tuple[str, ...]] = ()) -> None:
    """Open each distinct data source of ``cells`` once, as their first cell will, and see that the config of each
    family can be run with it, but for those that are ``proven``: some cell of theirs is complete.

    Raises:
        DataError: some cannot; which cells have what fault.
    """
    faults = Faults()
    for own in _grouped(cells, lambda cell: cell.config.data.model_dump_json()):
        try:
            check_root(own[0].config)
            dataset = load_dataset(own[0].config)
        except Exception as error:  # a user's own loader may raise anything, and so would each of the cells
            faults.add(one_line(words_of(error)), [cell.labels for cell in own])
            continue
        for family in _grouped([cell for cell in own if cell.family not in proven], lambda cell: cell.family):
            told = _misfit(family, dataset)
            if told:
                faults.add(told, [cell.labels for cell in family])
    forget_datasets()  # cells are processes of their own
    if faults:
        every = [cell.labels for cell in cells]
        raise DataError(f"{faults.told(every)}. No cell was started; --only axis=level runs those without a fault")


def _grouped(cells: Iterable[Cell], key: Callable[[Cell], _Key]) -> list[list[Cell]]:
    """The cells of each key, in their order."""
    groups: dict[_Key, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _misfit(family: Sequence[Cell], dataset: Dataset) -> str:
    """Why none of ``family`` can be run; empty where one can. What only some of its seeds draw, such as masks that hide
    every training sample, fails in those cells and stops no other."""
    first = ""
    for cell in family:
        told = _fault(cell, dataset)
        if not told:
            return ""
        first = first or told
    return first


def _fault(cell: Cell, dataset: Dataset) -> str:
    try:
        checked_recovery(cell.config, dataset.spec)
        allocate(dataset, cell.config)
    except Exception as error:  # as above
        return one_line(words_of(error))
    return ""

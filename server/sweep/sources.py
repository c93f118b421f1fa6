"""The data of a sweep, opened before its first cell starts: a wrong path must not show after hours."""

from __future__ import annotations

from collections.abc import Sequence

from fedrecon_core.data.dataset import forget_datasets, load_dataset
from fedrecon_core.errors import DataError, one_line, words_of
from server.prepare import refuse_missing_root
from server.sweep.cells import Cell
from server.sweep.faults import Faults


def check_sources(cells: Sequence[Cell]) -> None:
    """Open each distinct data source of ``cells`` once, as their first cell will.

    Raises:
        DataError: some cannot be opened; which cells need them.
    """
    by_source: dict[str, list[Cell]] = {}
    for cell in cells:
        by_source.setdefault(cell.config.data.model_dump_json(), []).append(cell)
    faults = Faults()
    for own in by_source.values():
        try:
            refuse_missing_root(own[0].config)
            load_dataset(own[0].config)
        except Exception as error:  # a user's own loader may raise anything, and so would each of the cells
            faults.add(one_line(words_of(error)), [cell.labels for cell in own])
    forget_datasets()  # cells are processes of their own
    if faults:
        every = [cell.labels for cell in cells]
        raise DataError(f"{faults.told(every)}. No cell was started; --only axis=level runs those whose data are there")

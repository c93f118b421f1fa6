"""The data of a sweep's report, whatever is missing or inconsistent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fedrecon_core.errors import FedReconError
from server.analysis.grids import Entry, Grid
from server.analysis.layout import Labels, Layout
from server.analysis.loaded_results import load_results
from server.analysis.remarks import mixed, unknown
from server.analysis.results import Result, read_results
from server.sweep.record import SWEEP, State, SweepRecord, TrialRecord, read_sweep


@dataclass(frozen=True)
class View:
    """The directory of a sweep and the comparison of its complete cells.

    ``text`` is ``sweep.yaml`` as it stands, ``fault`` the reason why complete cells could not be compared, ``remarks``
    are sentences on the cells and on the published values.
    """

    directory: Path
    record: SweepRecord
    text: str
    results: Sequence[Result]
    layout: Layout | None = None
    grids: Sequence[Grid] = ()
    fault: str = ""
    remarks: Sequence[str] = ()

    def having(self, state: State) -> list[TrialRecord]:
        """Return the cells in a state."""
        return [trial for trial in self.record.trials if trial.status is state]

    @property
    def sections(self) -> list[Grid]:
        """One grid per section, for what does not depend on the metric."""
        first: dict[tuple[tuple[str, str], ...], Grid] = {}
        for grid in self.grids:
            first.setdefault(tuple(grid.section.items()), grid)
        return list(first.values())

    def href(self, path: Path) -> str | None:
        """Return a relative link to a file of the sweep; None if it does not exist or is elsewhere."""
        if not path.is_file() or not path.is_relative_to(self.directory):
            return None
        return quote(path.relative_to(self.directory).as_posix())


def read_view(directory: Path) -> View:
    """Read the sweep in ``directory`` and compare its complete cells.

    Raises:
        DataError: ``directory`` is not the directory of a sweep, or its ``sweep.yaml`` is damaged.
    """
    try:
        material = load_results(directory)
        found, remarks = material.compared(), (*mixed(material.results), *unknown(material))
    except FedReconError as error:
        record = read_sweep(directory)
        results = read_results(record)  # if none is complete, that is no fault
        return View(directory, record, _text(directory), results, fault=str(error) if results else "")
    return View(directory, material.record, _text(directory), material.results, material.layout, found, remarks=remarks)


def _text(directory: Path) -> str:
    return (directory / SWEEP).read_text(encoding="utf-8", errors="replace")


def entries_of(grid: Grid) -> Iterator[tuple[Labels, Entry]]:
    """Yield each field of a grid with the labels of its row and column."""
    for (row, column), entry in sorted(grid.entries.items()):
        yield {**grid.rows[row], **grid.columns[column]}, entry

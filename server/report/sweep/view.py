"""What the report of a sweep is made from, whatever is missing or does not fit."""

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
from server.report.markup import Markup, tag
from server.sweep.record import SWEEP, State, SweepRecord, TrialRecord, read_sweep


@dataclass(frozen=True)
class View:
    """A sweep's directory, and its complete cells laid out. ``fault``: why they could not be, where they are there;
    ``text``: ``sweep.yaml`` as it stands."""

    directory: Path
    record: SweepRecord
    text: str
    results: Sequence[Result]
    layout: Layout | None = None
    grids: Sequence[Grid] = ()
    fault: str = ""
    told: Sequence[str] = ()
    """What a reader has to know of the cells and of the published values."""

    def having(self, state: State) -> list[TrialRecord]:
        """The cells that stand so."""
        return [trial for trial in self.record.trials if trial.status is state]

    @property
    def sections(self) -> list[Grid]:
        """One grid of each section: what does not depend on the metric is the same in all of them."""
        first: dict[tuple[tuple[str, str], ...], Grid] = {}
        for grid in self.grids:
            first.setdefault(tuple(grid.section.items()), grid)
        return list(first.values())


def read_view(directory: Path) -> View:
    """Read the sweep in ``directory`` and compare what is complete.

    Raises:
        DataError: it is no directory of a sweep, or its ``sweep.yaml`` is damaged.
    """
    try:
        material = load_results(directory)
        found, told = material.compared(), (*mixed(material.results), *unknown(material))
    except FedReconError as error:
        record = read_sweep(directory)
        results = read_results(record)  # where none is complete, that is no fault
        return View(directory, record, _text(directory), results, fault=str(error) if results else "")
    return View(directory, material.record, _text(directory), material.results, material.layout, found, told=told)


def _text(directory: Path) -> str:
    return (directory / SWEEP).read_text(encoding="utf-8", errors="replace")


def entries_of(grid: Grid) -> Iterator[tuple[Labels, Entry]]:
    """Labels of row and column -> field."""
    for (row, column), entry in sorted(grid.entries.items()):
        yield {**grid.rows[row], **grid.columns[column]}, entry


def link(view: View, path: Path, words: str) -> Markup | None:
    """A link to a file of the sweep, which holds wherever its directory is copied to; None where the file is not there
    or lies elsewhere."""
    if not path.is_file() or not path.is_relative_to(view.directory):
        return None
    return tag("a", words, href=quote(path.relative_to(view.directory).as_posix()))

"""Tables as numbers: a field for each combination of the levels of the axes that are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from server.analysis.differences import Difference
from server.analysis.layout import Labels, Layout
from server.analysis.published import Published
from server.analysis.results import Result
from server.runs.formatting import listing
from server.sweep.choices import exactly, fits


@dataclass(frozen=True)
class Entry:
    """One field: the results over the seeds of a combination of ``labels``, and their scores. ``place``: 1 the best of
    its column, 2 the second, 0 neither."""

    labels: Labels
    results: tuple[Result, ...]
    scores: tuple[float, ...]
    place: int = 0
    published: Published | None = None
    difference: Difference | None = None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds (of a sample: divided by S - 1); None of a single one."""
        return stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Grid:
    """The table of one metric and one section. ``entries``: (row, column) -> field, where there are results.
    ``remarks`` are sentences on the scores; ``notes`` say which differences from ``baseline`` could not be made, or are
    without an interval, and why."""

    metric: str
    section: Labels
    rows: Sequence[Labels]
    columns: Sequence[Labels]
    entries: Mapping[tuple[int, int], Entry]
    baseline: Labels = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def column(self, place: int) -> dict[tuple[int, int], Entry]:
        """The fields of one column."""
        return {key: entry for key, entry in self.entries.items() if key[1] == place}

    def changed(self, entries: Mapping[tuple[int, int], Entry]) -> Grid:
        """The grid with ``entries`` in the places of its own."""
        return replace(self, entries={**self.entries, **entries})


def plain_grids(layout: Layout, results: Sequence[Result]) -> list[Grid]:
    """A grid of scores for each section and metric that has results."""
    found = [
        _grid(layout, section, metric, having(results, section))
        for section in layout.combinations(layout.sections)
        for metric in layout.metrics
    ]
    return [grid for grid in found if grid.entries]


def _grid(layout: Layout, section: Labels, metric: str, results: Sequence[Result]) -> Grid:
    rows, columns = layout.combinations(layout.rows), layout.combinations(layout.columns)
    entries: dict[tuple[int, int], Entry] = {}
    scored = [result for result in results if metric in result.scores]
    for row, down in enumerate(rows):
        for column, across in enumerate(columns):
            labels = {**section, **down, **across}
            if own := having(scored, labels):
                entries[row, column] = Entry(labels, own, tuple(result.scores[metric] for result in own))
    lacking = listing([result.directory.name for result in results if metric not in result.scores])
    remarks = (f"Complete, and without this score: {lacking}.",) if lacking else ()
    return _without_gaps(Grid(metric, section, rows, columns, entries, layout.baseline, remarks))


def having(results: Sequence[Result], labels: Labels) -> tuple[Result, ...]:
    """The results with ``labels``, whatever the axes that stand in none of them."""
    choice = exactly(labels)
    return tuple(result for result in results if fits(result.labels, choice))


def _without_gaps(grid: Grid) -> Grid:
    """Without the rows and the columns that have no field."""
    rows = sorted({row for row, _ in grid.entries})
    columns = sorted({column for _, column in grid.entries})
    moved = {(rows.index(row), columns.index(column)): entry for (row, column), entry in grid.entries.items()}
    kept = [grid.rows[row] for row in rows], [grid.columns[column] for column in columns]
    return replace(grid, rows=kept[0], columns=kept[1], entries=moved)

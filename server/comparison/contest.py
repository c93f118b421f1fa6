"""Grids judged: the best of each column, what is published beside ours, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedrecon_core.errors import DataError
from server.comparison.bootstrap import holm
from server.comparison.differences import Differences
from server.comparison.grids import Entry, Grid, having, plain_grids
from server.comparison.layout import Layout
from server.comparison.published import Published, find
from server.comparison.results import Result
from server.sweep.table import LOSS

PLACES = 2
"""The best and the second are marked."""


def judged(layout: Layout, results: Sequence[Result], published: Sequence[Published]) -> list[Grid]:
    """A grid for each section and metric: what is best in it, and what is published beside it."""
    return [_ranked(_beside_published(grid, published), layout) for grid in plain_grids(layout, results)]


def compared(grids: Sequence[Grid], results: Sequence[Result]) -> list[Grid]:
    """``grids`` of ``results`` with differences from the baseline, where there is one."""
    differences = Differences()
    return [_compared(grid, results, differences) for grid in grids]


def _beside_published(grid: Grid, published: Sequence[Published]) -> Grid:
    entries = {
        key: replace(entry, published=find(published, entry.labels, grid.metric)) for key, entry in grid.entries.items()
    }
    return grid.changed(entries)


def _ranked(grid: Grid, layout: Layout) -> Grid:
    """In each column the best and the second of those that contend, equal ones alike; one alone is not ranked."""
    for column in range(len(grid.columns)):
        rivals = {key: entry for key, entry in grid.column(column).items() if layout.contends(entry.labels)}
        means = sorted({entry.mean for entry in rivals.values()}, reverse=grid.metric != LOSS)[:PLACES]
        if len(rivals) > 1:
            places = {key: means.index(entry.mean) + 1 for key, entry in rivals.items() if entry.mean in means}
            grid = grid.changed({key: replace(rivals[key], place=place) for key, place in places.items()})
    return grid


def _compared(grid: Grid, results: Sequence[Result], differences: Differences) -> Grid:
    """Differences from the baseline; the rivals of one column are one family of Holm's."""
    reasons: dict[str, None] = {}
    for column in range(len(grid.columns)) if grid.baseline else ():
        compared: dict[tuple[int, int], Entry] = {}
        for key, entry in grid.column(column).items():
            base = {**entry.labels, **grid.baseline}
            if base == entry.labels:
                continue
            try:
                found = differences.between(entry.results, having(results, base), grid.metric)
                compared[key] = replace(entry, difference=found)
            except DataError as error:
                reasons[f"{title(entry)}: {error}"] = None
        grid = grid.changed(_adjusted(compared))
    return replace(grid, notes=tuple(reasons))


def _adjusted(compared: dict[tuple[int, int], Entry]) -> dict[tuple[int, int], Entry]:
    found = {key: entry.difference for key, entry in compared.items() if entry.difference}
    values = holm([difference.p for difference in found.values()])
    return {
        key: replace(compared[key], difference=replace(difference, adjusted=value))
        for (key, difference), value in zip(found.items(), values, strict=True)
    }


def title(entry: Entry) -> str:
    """The field for people: ``recovery=mask, rate=0.5``."""
    return ", ".join(f"{axis}={level}" for axis, level in entry.labels.items())

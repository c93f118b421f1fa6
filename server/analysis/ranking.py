"""Grids judged: the best of each column, what is published beside ours, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from server.analysis.bootstrap import holm
from server.analysis.differences import Differences
from server.analysis.grids import Entry, Grid, having, plain_grids
from server.analysis.layout import Layout
from server.analysis.prediction_errors import Refusal, RefusedError, merged
from server.analysis.published import Published, find
from server.analysis.results import Result
from server.runs.formatting import listing
from server.sweep.choices import titled
from server.sweep.parameters import SEED
from server.sweep.table import LOSS

PLACES = 2
"""The best and the second are marked."""


Key = tuple[int, int]
Family = dict[Key, Entry]


def judged(layout: Layout, results: Sequence[Result], published: Sequence[Published]) -> list[Grid]:
    """A grid for each section and metric: what is best in it, and what is published beside it."""
    grids = [_beside_published(grid, published) for grid in plain_grids(layout, results)]
    return [_ranked(grid, layout) for grid in _without_field(grids, published)]


def compared(layout: Layout, grids: Sequence[Grid], results: Sequence[Result]) -> list[Grid]:
    """``grids`` of ``results`` with differences from the baseline, where there is one."""
    differences = Differences()
    return [_compared(grid, layout, results, differences) for grid in grids] if layout.baseline else list(grids)


def _beside_published(grid: Grid, published: Sequence[Published]) -> Grid:
    found = {key: find(published, entry.labels, grid.metric) for key, entry in grid.entries.items()}
    return grid.changed({key: replace(grid.entries[key], published=value) for key, value in found.items()})


def _without_field(grids: Sequence[Grid], published: Sequence[Published]) -> Iterator[Grid]:
    """``grids`` with a sentence, in the first of each metric, on the values that stand in none of its sections."""
    shown = {entry.published.line for grid in grids for entry in grid.entries.values() if entry.published}
    told: set[str] = set()
    for grid in grids:
        ours = [value for value in published if value.metric == grid.metric]
        left = sum(value.line not in shown for value in ours)
        sentence = f"{left} of {len(ours)} published values of this metric stand beside no field."
        yield replace(grid, remarks=(*grid.remarks, sentence)) if left and grid.metric not in told else grid
        told.add(grid.metric)


def _families(grid: Grid, layout: Layout) -> list[Family]:
    """The fields that are rivals of each other: those that differ in the axes of the contest alone."""
    found: dict[tuple[str, ...], Family] = {}
    for key, entry in grid.entries.items():
        found.setdefault(layout.family(entry.labels), {})[key] = entry
    return list(found.values())


def _ranked(grid: Grid, layout: Layout) -> Grid:
    """The best and the second of each family's contenders, equal ones alike. One alone is not ranked, nor are those
    whose means are over different seeds: a seed that is easy for all would decide."""
    unlike = []
    for family in _families(grid, layout):
        rivals = {key: entry for key, entry in family.items() if layout.contends(entry.labels)}
        if len({_seeds(entry) for entry in rivals.values()}) > 1:
            unlike.append(titled(layout.shared(next(iter(rivals.values())).labels)) or "the rivals of this table")
        elif len(rivals) > 1:
            grid = grid.changed(_placed(rivals, largest=grid.metric != LOSS))
    shown = [entry.labels for entry in grid.entries.values() if not layout.contends(entry.labels)]
    bounds = dict.fromkeys(titled({parameter: labels[parameter] for parameter in layout.bounds}) for labels in shown)
    told = [f"Bounds, which are not ranked: {listing(list(bounds))}."] if bounds else []
    if unlike:
        told.append(f"Not ranked, since the means are not over the same seeds: {listing(unlike)}.")
    return replace(grid, remarks=(*grid.remarks, *told))


def _placed(rivals: Family, largest: bool) -> Family:
    means = sorted({entry.mean for entry in rivals.values()}, reverse=largest)[:PLACES]
    placed = {key: entry for key, entry in rivals.items() if entry.mean in means}
    return {key: replace(entry, place=means.index(entry.mean) + 1) for key, entry in placed.items()}


def _seeds(entry: Entry) -> frozenset[str | None]:
    return frozenset(result.labels.get(SEED) for result in entry.results)


def _compared(grid: Grid, layout: Layout, results: Sequence[Result], differences: Differences) -> Grid:
    """Differences from the baseline; the contenders of a family are one family of Holm's, too."""
    refused: list[tuple[str, Refusal]] = []
    for family in _families(grid, layout):
        found: Family = {}
        for key, entry in family.items():
            base = {**entry.labels, **layout.baseline}
            if base == entry.labels:
                continue
            try:
                difference = differences.between(entry.results, having(results, base), grid.metric)
                found[key], why = replace(entry, difference=difference), difference.refused
            except RefusedError as error:
                why = error.refusal
            if why:
                refused.append((titled(entry.labels), why))
        grid = grid.changed({**found, **_adjusted(found, layout)})
    return replace(grid, notes=tuple(_notes(refused)))


def _notes(refused: Sequence[tuple[str, Refusal]]) -> Iterator[str]:
    """A sentence on each fault, with the fields that it leaves without an interval."""
    for fault in merged(refusal for _, refusal in refused):
        fields = [field for field, refusal in refused if refusal.why == fault.why]
        yield f"No interval for {'; '.join(fields)}: {fault}."


def _adjusted(compared: Family, layout: Layout) -> Family:
    """With p-values that allow for how many contenders have one; a bound is none."""
    rivals = {key: entry.difference for key, entry in compared.items() if layout.contends(entry.labels)}
    values = {key: found.p for key, found in rivals.items() if found and found.p is not None}
    adjusted = dict(zip(values, holm(list(values.values())), strict=True))
    return {
        key: replace(compared[key], difference=replace(found, adjusted=adjusted[key]))
        for key, found in rivals.items()
        if found and key in adjusted
    }

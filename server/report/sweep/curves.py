"""Contexts of the curves of a sweep's report: scores over a parameter, and over the rounds of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from server.analysis.grids import Entry, Grid
from server.analysis.layout import Labels, as_number, named
from server.analysis.plots.lines import crowded, fits_lines, series_of
from server.analysis.plots.style import value_names
from server.analysis.tables import metric_title, score
from server.report.charts import Axis, Chart, RoundsTable, Series, line_chart, rounds_table
from server.report.sweep.view import View
from server.runs.formatting import decimal, percent, plural
from server.runs.record import read_metrics
from server.runs.summary import Points, points
from server.sweep.table import LOSS


def by_value(view: View) -> dict[str, Any] | None:
    """Draw every metric over the first axis of the columns, if its levels are numbers: a line for each method."""
    if view.layout is None or not fits_lines(view.layout):
        return None
    axis = view.layout.columns[0]
    drawn = [_over(grid, axis) for grid in view.grids if len({column[axis] for column in grid.columns}) > 1]
    charts = [chart for chart in drawn if chart]
    return {"axis": axis, "charts": charts} if charts else None


def _over(grid: Grid, axis: str) -> Chart | None:
    """Draw one grid; where levels are too close to each other on a linear axis, it is logarithmic."""
    numbers = {level: as_number(level) or 0.0 for column in grid.columns for level in [column[axis]]}
    ordered = sorted(numbers, key=numbers.__getitem__)
    logarithmic = crowded([numbers[level] for level in ordered])
    place = {level: math.log10(numbers[level]) if logarithmic else numbers[level] for level in ordered}
    drawn = []
    for line in series_of(grid, axis):
        fields = {place[level]: entry for level, entry in line.fields.items()}
        means = tuple(sorted((at, entry.mean) for at, entry in fields.items()))
        spreads = {at: entry.deviation for at, entry in fields.items() if entry.deviation is not None}
        notes = {at: _note(entry, grid.metric) for at, entry in fields.items()}
        drawn.append(Series(line.name, means, spreads, notes))
    across = Axis(axis, {at: level for level, at in place.items()})
    return line_chart(_title(grid, {}), drawn, _format(grid.metric), axis=across)


def _note(entry: Entry, metric: str) -> str:
    """Return what a tooltip adds to the mean, such as ``± 0.4 over 3 seeds; published: 57.8``."""
    spread = f" ± {score(entry.deviation, metric)}" if entry.deviation is not None else ""
    printed = f"; published: {score(entry.published.value, metric)}" if entry.published else ""
    return f"{spread} over {plural(len(entry.scores), 'seed')}{printed}"


def learning(view: View) -> list[tuple[Chart, RoundsTable]] | None:
    """Draw validation scores by round: a chart for each metric and column, a line for each row."""
    read = {result.directory: read_metrics(result.directory) for result in view.results}

    def mean_of(entry: Entry, metric: str) -> Points:
        found = [points(read[result.directory], "validation", metric) for result in entry.results]
        return _mean([one for one in found if one])

    return [part for grid in view.grids for part in _charts(grid, mean_of)] or None


def _charts(grid: Grid, mean_of: Callable[[Entry, str], Points]) -> Iterator[tuple[Chart, RoundsTable]]:
    label = _format(grid.metric)
    for place, column in enumerate(grid.columns):
        own = {row: mean_of(entry, grid.metric) for (row, _), entry in grid.column(place).items()}
        names = [value_names(row) or metric_title(grid.metric) for row in grid.rows]
        drawn = [Series(name, own.get(row, ())) for row, name in enumerate(names)]
        title = _title(grid, column)
        if chart := line_chart(title, drawn, label):
            columns = [(one.name, one.points, label) for one in drawn if one.points]
            yield chart, rounds_table(f"Validation, {title}, by round", columns)


def _mean(found: Sequence[Points]) -> Points:
    """Average by round, over the rounds that all of them have."""
    by_round = [dict(one) for one in found]
    common = set.intersection(*map(set, by_round)) if by_round else set()
    return tuple((turn, fmean(one[turn] for one in by_round)) for turn in sorted(common))


def _title(grid: Grid, column: Labels) -> str:
    where = named({**grid.section, **column})
    return f"{metric_title(grid.metric)}{f': {where}' if where else ''}"


def _format(metric: str) -> Callable[[float | None], str]:
    return decimal if metric == LOSS else percent

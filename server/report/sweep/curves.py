"""Contexts of the curves of a sweep's report: scores over a parameter, and over the rounds of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from server.analysis.plots.lines import crowded, fits_lines, series_of
from server.analysis.plots.style import value_names
from server.analysis.published import Labels
from server.analysis.rendering import metric_title, score
from server.analysis.tables import ScoreTable, as_number, named
from server.analysis.trials import mean_curve
from server.report.charts import Axis, Chart, RoundsTable, Series, line_chart, rounds_table
from server.report.sweep.view import View
from server.runs.formatting import decimal, percent, plural
from server.sweep.table import LOSS


def by_value(view: View) -> dict[str, Any] | None:
    """Draw every metric over the first axis of the columns, if its levels are numbers: a line for each method."""
    if view.layout is None or not fits_lines(view.layout):
        return None
    axis = view.layout.columns[0]
    drawn = [_over(grid, axis) for grid in view.tables if len({column[axis] for column in grid.columns}) > 1]
    charts = [chart for chart in drawn if chart]
    return {"axis": axis, "charts": charts} if charts else None


def _over(grid: ScoreTable, axis: str) -> Chart | None:
    """Draw one grid; where levels are too close to each other on a linear axis, it is logarithmic."""
    numbers = {level: as_number(level) or 0.0 for column in grid.columns for level in [column[axis]]}
    ordered = sorted(numbers, key=numbers.__getitem__)
    logarithmic = crowded([numbers[level] for level in ordered])
    place = {level: math.log10(numbers[level]) if logarithmic else numbers[level] for level in ordered}
    drawn = []
    for line in series_of(grid, axis):
        cells = {place[level]: cell for level, cell in line.cells.items()}
        means = tuple(sorted((at, cell["mean"]) for at, cell in cells.items()))
        spreads = {at: cell["deviation"] for at, cell in cells.items() if pd.notna(cell["deviation"])}
        notes = {at: _note(cell, grid.metric) for at, cell in cells.items()}
        drawn.append(Series(line.name, means, spreads, notes))
    across = Axis(axis, {at: level for level, at in place.items()})
    return line_chart(_title(grid, {}), drawn, _format(grid.metric), axis=across)


def _note(cell: pd.Series[Any], metric: str) -> str:
    """Return what a tooltip adds to the mean, such as ``± 0.4 over 3 seeds; published: 57.8``."""
    spread = f" ± {score(cell['deviation'], metric)}" if pd.notna(cell["deviation"]) else ""
    printed = f"; published: {score(cell['published'], metric)}" if pd.notna(cell["published"]) else ""
    return f"{spread} over {plural(cell['seeds'], 'seed')}{printed}"


def learning(view: View) -> list[tuple[Chart, RoundsTable]] | None:
    """Draw validation scores by round: a chart for each metric and column, a line for each row."""
    curves = view.sweep.curves
    return [part for grid in view.tables for part in _charts(grid, curves)] or None


def _charts(grid: ScoreTable, curves: pd.DataFrame) -> Iterator[tuple[Chart, RoundsTable]]:
    label = _format(grid.metric)
    for place, column in enumerate(grid.columns):
        keys = [key for key in grid.keys if key[1] == place]
        own = {key[0]: tuple(mean_curve(curves, grid.cell(key)["trials"], grid.metric)) for key in keys}
        names = [value_names(row) or metric_title(grid.metric) for row in grid.rows]
        drawn = [Series(name, own.get(row, ())) for row, name in enumerate(names)]
        title = _title(grid, column)
        if chart := line_chart(title, drawn, label):
            columns = [(one.name, one.points, label) for one in drawn if one.points]
            yield chart, rounds_table(f"Validation, {title}, by round", columns)


def _title(grid: ScoreTable, column: Labels) -> str:
    where = named({**grid.section, **column})
    return f"{metric_title(grid.metric)}{f': {where}' if where else ''}"


def _format(metric: str) -> Callable[[float | None], str]:
    return decimal if metric == LOSS else percent

"""Contexts of the curves of a sweep's report: scores over a parameter, and over the rounds of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from fedrecon_core.metrics.base import is_percentage, metric_title
from server.analysis.plots.lines import crowded, fits_lines, series_of
from server.analysis.plots.style import value_names
from server.analysis.published import Labels
from server.analysis.rendering import score
from server.analysis.tables import ScoreTable, as_number, named
from server.analysis.trials import mean_curve
from server.report.charts import Axis, Chart, RoundsTable, Series, line_chart, rounds_table
from server.report.sweep.view import View
from server.runs.formatting import decimal, percent, plural


def by_value(view: View) -> dict[str, Any] | None:
    """Draw every metric over the first parameter of the columns, if its values are numbers: a line for each method."""
    if view.layout is None or not fits_lines(view.layout):
        return None
    parameter = view.layout.columns[0]
    tables = [table for table in view.tables if len({column[parameter] for column in table.columns}) > 1]
    charts = [chart for table in tables if (chart := _over(table, parameter))]
    return {"parameter": parameter, "charts": charts} if charts else None


def _over(table: ScoreTable, parameter: str) -> Chart | None:
    """Draw one table, on a logarithmic axis where values are too close to each other on a linear one."""
    values = {column[parameter] for column in table.columns}
    numbers = {value: number for value in values if (number := as_number(value)) is not None}
    position = dict(sorted(numbers.items(), key=lambda item: item[1]))
    if crowded(list(position.values())):
        position = {value: math.log10(number) for value, number in position.items()}
    drawn = []
    for line in series_of(table, parameter):
        cells = {position[value]: cell for value, cell in line.cells.items()}
        means = tuple(sorted((at, cell["mean"]) for at, cell in cells.items()))
        spreads = {at: cell["deviation"] for at, cell in cells.items() if pd.notna(cell["deviation"])}
        notes = {at: _note(cell, table.metric) for at, cell in cells.items()}
        drawn.append(Series(line.name, means, spreads, notes))
    axis = Axis(parameter, {at: value for value, at in position.items()})
    return line_chart(_title(table, {}), drawn, _format(table.metric), axis=axis)


def _note(cell: pd.Series[Any], metric: str) -> str:
    """Return what a tooltip adds to the mean, such as ``± 0.4 over 3 seeds; published: 57.8``."""
    spread = f" ± {score(cell['deviation'], metric)}" if pd.notna(cell["deviation"]) else ""
    published = f"; published: {score(cell['published'], metric)}" if pd.notna(cell["published"]) else ""
    return f"{spread} over {plural(cell['seeds'], 'seed')}{published}"


def learning(view: View) -> list[tuple[Chart, RoundsTable]] | None:
    """Draw validation scores by round: a chart for each metric and column, a line for each row."""
    curves = view.sweep.curves
    return [part for table in view.tables for part in _learning(table, curves)] or None


def _learning(table: ScoreTable, curves: pd.DataFrame) -> Iterator[tuple[Chart, RoundsTable]]:
    label, keys = _format(table.metric), set(table.keys)
    for place, column in enumerate(table.columns):
        lines = []
        for key, row in (((down, place), row) for down, row in enumerate(table.rows)):
            points = mean_curve(curves, table.cell(key)["trials"], table.metric) if key in keys else []
            lines.append(Series(value_names(row) or metric_title(table.metric), tuple(points)))
        title = _title(table, column)
        if chart := line_chart(title, lines, label):
            columns = [(line.name, line.points, label) for line in lines if line.points]
            yield chart, rounds_table(f"Validation, {title}, by round", columns)


def _title(table: ScoreTable, column: Labels) -> str:
    where = named({**table.section, **column})
    return f"{metric_title(table.metric)}{f': {where}' if where else ''}"


def _format(metric: str) -> Callable[[float | None], str]:
    return percent if is_percentage(metric) else decimal

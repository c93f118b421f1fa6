"""Plot of the paired differences from the baseline, with their intervals."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from fedrecon_core.errors import UsageError
from fedrecon_core.metrics.base import metric_title
from server.analysis.plots.style import COLUMN, GREY, LINE, Drawing, Legend, look, unit_of, value_names
from server.analysis.rendering import points
from server.analysis.results import SweepResults
from server.analysis.tables import ScoreTable, named

GROUP = 0.7
"""Height of a group of differences; the distance between groups is 1."""


def differences(results: SweepResults) -> list[Drawing]:
    """A figure for each section and metric that has differences.

    Raises:
        UsageError: there are none: the sweep names no baseline, or no complete trial can be compared with it.
    """
    tables = [table for table in results.compared_tables() if table.cells["difference"].notna().any()]
    if not tables:
        advice = "set it with --set baseline.AXIS=VALUE, and include it if you give --only"
        raise UsageError(
            f"table.baseline: expected one with which complete trials can be compared, found none; {advice}"
        )
    return [Drawing.of_table("differences", table, partial(draw, table)) for table in tables]


def draw(table: ScoreTable) -> Any:
    """Draw the figure (``matplotlib.figure.Figure``): a group for each column, with a mark and a 95% interval for each
    method. A hollow mark has a single seed or no interval, so it does not generalize to other seeds."""
    from matplotlib.figure import Figure

    cells = table.cells[table.cells["difference"].notna()]
    rows, columns = (sorted(set(cells.index.get_level_values(level))) for level in ("row", "column"))
    legend = Legend([value_names(table.rows[row]) for row in rows], list(table.rows[0]), COLUMN)
    most = max(sum(column == own for _, column in cells.index) for own in columns)
    figure = Figure(figsize=(COLUMN, 0.7 + legend.height + LINE * len(columns) * max(1.5, most)))
    axes = figure.subplots()
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    handles = []
    for place, row in enumerate(rows):  # the rows of a group are around its middle, the first on top
        aside = (place - (len(rows) - 1) / 2) * GROUP / len(rows)
        own = {columns.index(column) + aside: cell for column, cell in cells.xs(row, level="row").iterrows()}
        marks = [_mark(axes, place, cell, row, unit_of(table.metric)) for place, cell in own.items()]
        handles.append(marks[0])
    axes.set_yticks(range(len(columns)), [value_names(table.columns[column]) for column in columns])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(columns) - 0.5, -0.5)  # the first on top
    axes.grid(axis="y", visible=False)
    whose = f" of {value_names(table.rows[rows[0]])}" if len(rows) == 1 else ""  # a single one has no legend
    title = f"{metric_title(table.metric)}{whose} less that of {value_names(table.baseline)}{points(table.metric)}"
    figure.supxlabel(title)
    if table.section:
        axes.set_title(named(table.section))
    legend.put(figure, handles)
    return figure


def _mark(axes: Any, place: float, cell: pd.Series[Any], row: int, unit: float) -> Any:
    """Draw the difference of one cell."""
    mean, own, has_interval = cell["difference"], look(row), pd.notna(cell["difference_low"])
    low, high = (cell["difference_low"], cell["difference_high"]) if has_interval else (mean, mean)
    filled = has_interval and cell["difference_seeds"] > 1
    style = {"color": own.color, "marker": own.marker, "markerfacecolor": own.color if filled else "white"}
    return axes.errorbar(unit * mean, place, xerr=[[unit * (mean - low)], [unit * (high - mean)]], **style)

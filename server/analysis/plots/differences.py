"""Paired differences from the baseline with their intervals, one below the other: which of them are sure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fedrecon_core.errors import UsageError
from server.analysis.grids import Entry, Grid
from server.analysis.layout import named
from server.analysis.loaded_results import Material
from server.analysis.plots.drawing import Drawing, drawing_name
from server.analysis.plots.style import COLUMN, GREY, LINE, Legend, Look, height, look, value_names
from server.analysis.tables import metric_title, points

GROUP = 0.7
"""Height of a group of differences; groups stand at a distance of one."""

Fields = Mapping[tuple[int, int], Entry]


def differences(material: Material) -> list[Drawing]:
    """A figure for each section and metric that has differences.

    Raises:
        UsageError: there are none: the sweep names no baseline, or nothing that is complete can be compared with it.
    """
    found = [grid for grid in material.compared() if _compared(grid)]
    if not found:
        told = "--set baseline.AXIS=LEVEL names what others are compared with, and --only must keep it"
        raise UsageError(f"table.baseline: expected one of which complete cells differ, found none: {told}")
    return [Drawing(drawing_name("differences", grid), partial(draw, grid)) for grid in found]


def draw(grid: Grid) -> Any:
    """The figure (``matplotlib.figure.Figure``): a group for each column, in it a mark for each method with its 95%
    interval. One that says nothing of other seeds, since there is but one or no interval at all, is hollow."""
    from matplotlib.figure import Figure

    found = _compared(grid)
    rows = sorted({row for row, _ in found})
    columns = sorted({column for _, column in found})
    legend = Legend([value_names(grid.rows[row]) for row in rows], list(grid.rows[0]), COLUMN)
    most = max(sum(column == own for _, column in found) for own in columns)
    figure = Figure(figsize=(COLUMN, 0.7 + legend.height + LINE * len(columns) * max(1.5, most)))
    axes = figure.subplots()
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    handles = []
    for place, row in enumerate(rows):  # rows of a group lie around its middle, the first on top
        aside = (place - (len(rows) - 1) / 2) * GROUP / len(rows)
        own = {group + aside: found[row, column] for group, column in enumerate(columns) if (row, column) in found}
        handles.append(_row(axes, own, look(row), height(grid.metric)))
    _groups(axes, [value_names(grid.columns[column]) for column in columns])
    whose = f" of {value_names(grid.rows[rows[0]])}" if len(rows) == 1 else ""  # of one there is no legend
    figure.supxlabel(
        f"{metric_title(grid.metric)}{whose} less that of {value_names(grid.baseline)}{points(grid.metric)}"
    )
    if grid.section:
        axes.set_title(named(grid.section))
    legend.put(figure, handles)
    return figure


def _compared(grid: Grid) -> Fields:
    return {key: entry for key, entry in grid.entries.items() if entry.difference is not None}


def _row(axes: Any, fields: Mapping[float, Entry], own: Look, unit: float) -> Any:
    """The marks of one method, place -> field; the first of them stands for it in the legend."""
    handles = []
    for place, entry in fields.items():
        difference = entry.difference
        assert difference is not None
        mean, interval = difference.mean, difference.interval
        reach = [[mean - interval.low], [interval.high - mean]] if interval else [[0.0], [0.0]]
        sure = interval is not None and difference.seeds > 1
        style = {"color": own.colour, "marker": own.marker, "markerfacecolor": own.colour if sure else "white"}
        across = [[unit * value for value in side] for side in reach]
        handles.append(axes.errorbar(unit * mean, place, xerr=across, **style))
    return handles[0]


def _groups(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    axes.grid(axis="y", visible=False)

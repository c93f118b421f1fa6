"""Bar plots: a group of bars for each column of a table, a bar for each row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from server.analysis.plots.style import (
    COLUMN,
    LETTER,
    LINE,
    PAGE,
    PUBLISHED,
    Drawing,
    Legend,
    look,
    unit_of,
    value_names,
)
from server.analysis.rendering import metric_label
from server.analysis.results import SweepResults
from server.analysis.tables import ScoreTable, named

GROUP = 0.8
"""Width of a group of bars; the distance between groups is 1."""
NARROWEST = 0.12
"""Inches per bar; if bars would be narrower, the figure has the width of a page."""


def bars(results: SweepResults) -> list[Drawing]:
    """A figure for each section and metric."""
    return [Drawing.of_table("bars", table, partial(draw, table)) for table in results.tables()]


def draw(table: ScoreTable) -> Any:
    """Draw the figure (``matplotlib.figure.Figure``): means over seeds, with error bars of one standard deviation;
    published values are hollow diamonds."""
    from matplotlib.figure import Figure

    width = COLUMN if len(table.columns) * (len(table.rows) + 1) * NARROWEST < COLUMN - 0.6 else PAGE
    published = table.cells["published"].dropna()
    rows = [value_names(row) or metric_label(table.metric) for row in table.rows]
    legend = Legend([*rows, *([PUBLISHED] if len(published) else [])], list(table.rows[0]), width)
    groups = [value_names(column) for column in table.columns]
    turned = _turned(groups, width - 0.6)
    below = LETTER * max(map(len, groups)) * (turned.get("rotation", 0) / 90)
    figure = Figure(figsize=(width, 2.3 + legend.height + below))
    axes = figure.subplots()
    handles = [_row(axes, table, place, name) for place, name in enumerate(rows)]
    if len(published):
        style: Any = {"marker": "D", "linestyle": "none", "markerfacecolor": "white", "markeredgecolor": "black"}
        across = [_middle(table, row, column) for row, column in published.index]
        handles += axes.plot(across, list(unit_of(table.metric) * published), **style, label=PUBLISHED)
    axes.set_xticks(range(len(groups)), groups, **turned)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xlabel(", ".join(table.columns[0]))
    axes.set_ylabel(metric_label(table.metric))
    axes.grid(axis="x", visible=False)
    if table.section:
        axes.set_title(named(table.section))
    legend.put(figure, handles)
    return figure


def _row(axes: Any, table: ScoreTable, row: int, name: str) -> Any:
    own, unit, cells = look(row), unit_of(table.metric), table.cells.xs(row, level="row")
    return axes.bar(
        [_middle(table, row, column) for column in cells.index],
        list(unit * cells["mean"]),
        GROUP / len(table.rows),
        yerr=list(unit * cells["deviation"]),
        color=own.color,
        edgecolor="white",
        linewidth=0.5,
        hatch=own.hatch,
        error_kw={"elinewidth": 0.8, "ecolor": "black"},
        label=name,
    )


def _middle(table: ScoreTable, row: int, column: int) -> float:
    return column + (row - (len(table.rows) - 1) / 2) * GROUP / len(table.rows)


def _turned(names: Sequence[str], width: float) -> dict[str, Any]:
    """Return the rotation with which the names of groups fit next to each other into ``width`` inches."""
    pairs = pairwise(names) if len(names) > 1 else [(names[0], names[0])]
    if LETTER * max((len(name) + len(after)) / 2 + 1 for name, after in pairs) <= width / len(names):
        return {}
    return {"rotation": 90} if 2 * LINE * len(names) > width else {"rotation": 30, "ha": "right"}

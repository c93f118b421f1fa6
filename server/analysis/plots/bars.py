"""Bars side by side: a group for each column, a bar for each row, as ablations are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from server.analysis.grids import Entry, Grid
from server.analysis.layout import named
from server.analysis.loaded_results import Material
from server.analysis.plots.drawing import Drawing, drawing_name
from server.analysis.plots.style import (
    COLUMN,
    LETTER,
    LINE,
    PAGE,
    PUBLISHED,
    Legend,
    height,
    look,
    value_names,
)
from server.analysis.tables import metric_label

GROUP = 0.8
"""Width of a group of bars; groups stand at a distance of one."""
NARROWEST = 0.12
"""Inches per bar: where a column of a paper gives them less, the figure takes the width of its page."""


def bars(material: Material) -> list[Drawing]:
    """A figure for each section and metric."""
    return [Drawing(drawing_name("bars", grid), partial(draw, grid)) for grid in material.grids()]


def draw(grid: Grid) -> Any:
    """The figure (``matplotlib.figure.Figure``): means over the seeds from zero up, with one standard deviation to each
    side; published values are hollow diamonds."""
    from matplotlib.figure import Figure

    width = COLUMN if len(grid.columns) * (len(grid.rows) + 1) * NARROWEST < COLUMN - 0.6 else PAGE
    published = any(entry.published for entry in grid.entries.values())
    rows = [value_names(row) or metric_label(grid.metric) for row in grid.rows]
    legend = Legend([*rows, *[PUBLISHED] * published], list(grid.rows[0]), width)
    groups = [value_names(column) for column in grid.columns]
    turned = _turned(groups, width - 0.6)
    below = LETTER * max(map(len, groups)) * (turned.get("rotation", 0) / 90)
    figure = Figure(figsize=(width, 2.3 + legend.height + below))
    axes = figure.subplots()
    handles = [_row(axes, grid, place, name) for place, name in enumerate(rows)]
    if published:
        handles.append(_published(axes, grid))
    _groups(axes, grid, groups, turned)
    axes.set_ylabel(metric_label(grid.metric))
    axes.grid(axis="x", visible=False)
    if grid.section:
        axes.set_title(named(grid.section))
    legend.put(figure, handles)
    return figure


def _row(axes: Any, grid: Grid, row: int, name: str) -> Any:
    own, unit, found = look(row), height(grid.metric), _fields(grid, row)
    spread = [math.nan if entry.deviation is None else unit * entry.deviation for entry in found.values()]
    return axes.bar(
        [_middle(grid, row, column) for column in found],
        [unit * entry.mean for entry in found.values()],
        GROUP / len(grid.rows),
        yerr=spread,
        color=own.colour,
        edgecolor="white",
        linewidth=0.5,
        hatch=own.hatch,
        error_kw={"elinewidth": 0.8, "ecolor": "black"},
        label=name,
    )


def _fields(grid: Grid, row: int) -> Mapping[int, Entry]:
    """Column -> field."""
    return {column: entry for (down, column), entry in sorted(grid.entries.items()) if down == row}


def _middle(grid: Grid, row: int, column: int) -> float:
    return column + (row - (len(grid.rows) - 1) / 2) * GROUP / len(grid.rows)


def _published(axes: Any, grid: Grid) -> Any:
    printed = [
        (_middle(grid, row, column), height(grid.metric) * entry.published.value)
        for (row, column), entry in sorted(grid.entries.items())
        if entry.published
    ]
    style = {"marker": "D", "linestyle": "none", "markerfacecolor": "white", "markeredgecolor": "black"}
    return axes.plot(*zip(*printed, strict=True), **style, label=PUBLISHED)[0]


def _groups(axes: Any, grid: Grid, names: Sequence[str], turned: Mapping[str, Any]) -> None:
    axes.set_xticks(range(len(names)), names, **turned)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel(", ".join(grid.columns[0]))


def _turned(names: Sequence[str], width: float) -> dict[str, Any]:
    """How the names of groups stand beside each other in so many inches."""
    pairs = pairwise(names) if len(names) > 1 else [(names[0], names[0])]
    if LETTER * max((len(name) + len(after)) / 2 + 1 for name, after in pairs) <= width / len(names):
        return {}
    return {"rotation": 90} if 2 * LINE * len(names) > width else {"rotation": 30, "ha": "right"}

"""A metric against an axis whose levels are numbers, a line for each method: how scores fall as more is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from fedrecon_core.errors import UsageError
from server.analysis.grids import Entry, Grid
from server.analysis.layout import Layout, as_number, named
from server.analysis.loaded_results import Material
from server.analysis.plots.drawing import Drawing, drawing_name
from server.analysis.plots.style import (
    COLUMN,
    GREY,
    PUBLISHED,
    Legend,
    height,
    look,
    value_names,
)
from server.analysis.results import mean
from server.analysis.tables import metric_label
from server.runs.formatting import percent

NARROW = 0.09
"""Neighbours nearer to each other than this share of the axis, about the width of a label, are set apart by a
logarithmic one."""
APART = 0.01
"""Effective missing rates that differ by less are the same: levels have them in common, and they are not told."""


@dataclass(frozen=True)
class Series:
    """One line: its name, and its fields by the level of the axis."""

    name: str
    fields: Mapping[str, Entry]


def lines(material: Material) -> list[Drawing]:
    """A figure for each section and metric.

    Raises:
        UsageError: the first axis of the columns is not one of numbers, or there is none.
    """
    if not material.layout.columns:
        raise UsageError("table.columns: expected an axis whose levels are numbers for lines, found no axis")
    parameter = material.layout.columns[0]
    found = material.grids()
    for grid in found:
        _check_numbers(parameter, [column[parameter] for column in grid.columns])
    return [Drawing(drawing_name("lines", grid), partial(draw, grid, parameter)) for grid in found]


def fits_lines(layout: Layout) -> bool:
    """Whether the first axis of the columns is one of numbers."""
    return bool(layout.columns) and layout.numeric(layout.columns[0])


def _check_numbers(parameter: str, found: Sequence[str]) -> None:
    for value in found:
        if as_number(value) is None:
            told = "--kind bars takes any, and --set columns=[AXIS] or --only another choice"
            raise UsageError(f"expected numbers as levels of '{parameter}' for lines, found '{value}'; {told}")


def series_of(grid: Grid, parameter: str) -> list[Series]:
    """A line for each row and, where there are more axes in the columns, for each combination of their levels."""
    found: dict[str, dict[str, Entry]] = {}
    for (row, column), entry in sorted(grid.entries.items()):
        others = {other: value for other, value in grid.columns[column].items() if other != parameter}
        name = value_names({**grid.rows[row], **others}) or metric_label(grid.metric)
        found.setdefault(name, {})[grid.columns[column][parameter]] = entry
    return [Series(name, fields) for name, fields in found.items()]


def draw(grid: Grid, parameter: str) -> Any:
    """The figure (``matplotlib.figure.Figure``): means over the seeds, with bars of one standard deviation to each
    side; published values are hollow."""
    from matplotlib.figure import Figure

    series = series_of(grid, parameter)
    published = any(entry.published for entry in grid.entries.values())
    names = [*(one.name for one in series), *[PUBLISHED] * published]
    legend = Legend(names, [other for other in (*grid.rows[0], *grid.columns[0]) if other != parameter], COLUMN)
    figure = Figure(figsize=(COLUMN, 2.3 + legend.height))
    axes = figure.subplots()
    handles = [_line(axes, one, place, grid.metric) for place, one in enumerate(series)]
    if published:
        handles += axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=GREY)
    _across(axes, grid, parameter)
    axes.set_ylabel(metric_label(grid.metric))
    if grid.section:
        axes.set_title(named(grid.section))
    legend.put(figure, handles)
    return figure


def _line(axes: Any, series: Series, place: int, metric: str) -> Any:
    """Draw it; the part of it that stands in a legend."""
    ordered = sorted(series.fields.items(), key=lambda item: _place(item[0]))
    own, unit = look(place), height(metric)
    across = [_place(value) for value, _ in ordered]
    spread = [math.nan if entry.deviation is None else unit * entry.deviation for _, entry in ordered]
    line = axes.errorbar(
        across,
        [unit * entry.mean for _, entry in ordered],
        spread,
        color=own.colour,
        marker=own.marker,
        linestyle=own.dashes,
        elinewidth=0.8,
        label=series.name,
    )
    printed = [(_place(value), unit * entry.published.value) for value, entry in ordered if entry.published]
    if printed:
        style = {"marker": own.marker, "linestyle": "none", "markersize": 6, "label": f"{series.name} ({PUBLISHED})"}
        axes.plot(*zip(*printed, strict=True), markerfacecolor="none", markeredgecolor=own.colour, **style)
    return line.lines[0]


def _place(value: str) -> float:
    number = as_number(value)
    assert number is not None, value
    return number


def _across(axes: Any, grid: Grid, parameter: str) -> None:
    """The levels as they are written, with what was missing in effect below where that goes with them."""
    found = sorted({column[parameter] for column in grid.columns}, key=_place)
    places = [_place(value) for value in found]
    if crowded(places):
        axes.set_xscale("log")
        axes.minorticks_off()
    missing, split = _in_effect(grid, parameter)
    ticks = [f"{value}\n{percent(missing[value], 0)}" if missing else value for value in found]
    axes.set_xticks(places, ticks)
    axes.set_xlabel(f"{parameter} (below: effectively missing in {split})" if missing else parameter)


def crowded(places: Sequence[float]) -> bool:
    """Whether some of the ``places``, in their order, would run together on an axis that is not logarithmic."""
    gaps = [after - before for before, after in pairwise(places)]
    return bool(gaps) and places[0] > 0 and min(gaps) < NARROW * (places[-1] - places[0])


def _in_effect(grid: Grid, parameter: str) -> tuple[dict[str, float], str]:
    """Level -> share of all values that were absent, and in which split: the first in which the levels differ. Where
    methods do not agree on it (one may train on other sites than the rest) it is not told."""
    found = {column[parameter] for column in grid.columns}
    for split, name in {"train": "training", "test": "the test"}.items():
        known: dict[str, float] = {}
        for value in found:
            own = [entry for (_, place), entry in grid.entries.items() if grid.columns[place][parameter] == value]
            rates = [mean(entry.results, lambda result, split=split: result.missing.get(split)) for entry in own]  # type: ignore[misc]
            told = [rate for rate in rates if rate is not None]
            if told and len(told) == len(rates) and max(told) - min(told) < APART:
                known[value] = sum(told) / len(told)
        values_differ = max(known.values(), default=0.0) - min(known.values(), default=0.0) > APART
        if len(known) == len(found) and values_differ:
            return known, name
    return {}, ""

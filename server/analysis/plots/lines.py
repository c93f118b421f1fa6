"""A metric against an axis whose levels are numbers, a line for each method: how scores fall as more is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd

from fedrecon_core.errors import UsageError
from server.analysis.plots.style import COLUMN, GREY, PUBLISHED, Drawing, Legend, height, look, value_names
from server.analysis.rendering import metric_label
from server.analysis.results import SweepResults
from server.analysis.tables import Layout, ScoreTable, as_number, named
from server.runs.formatting import percent

NARROW = 0.09
"""Neighbours nearer to each other than this share of the axis, about the width of a label, are set apart by a
logarithmic one."""
APART = 0.01
"""Effective missing rates that differ by less are the same: levels have them in common, and they are not told."""


@dataclass(frozen=True)
class Series:
    """One line: its name, and the cells of the table (``ScoreTable.cells``) by the value of the parameter."""

    name: str
    cells: Mapping[str, pd.Series[Any]]


def lines(results: SweepResults) -> list[Drawing]:
    """A figure for each section and metric.

    Raises:
        UsageError: the first parameter of the columns is not one of numbers, or there is none.
    """
    if not results.layout.columns:
        raise UsageError("table.columns: expected an axis whose levels are numbers for lines, found no axis")
    parameter = results.layout.columns[0]
    tables = results.tables()
    for value in (column[parameter] for table in tables for column in table.columns):
        if as_number(value) is None:
            advice = "--kind bars takes any, and --set columns=[AXIS] or --only another choice"
            raise UsageError(f"expected numbers as levels of '{parameter}' for lines, found '{value}'; {advice}")
    return [Drawing.of_table("lines", table, partial(draw, table, parameter)) for table in tables]


def fits_lines(layout: Layout) -> bool:
    """Whether the first axis of the columns is one of numbers."""
    return bool(layout.columns) and layout.numeric(layout.columns[0])


def series_of(table: ScoreTable, parameter: str) -> list[Series]:
    """A line for each row and, where there are more parameters in the columns, for each combination of their values."""
    found: dict[str, dict[str, pd.Series[Any]]] = {}
    for row, column in table.keys:
        others = {other: value for other, value in table.columns[column].items() if other != parameter}
        name = value_names({**table.rows[row], **others}) or metric_label(table.metric)
        found.setdefault(name, {})[table.columns[column][parameter]] = table.cell((row, column))
    return [Series(name, cells) for name, cells in found.items()]


def draw(table: ScoreTable, parameter: str) -> Any:
    """The figure (``matplotlib.figure.Figure``): means over the seeds, with bars of one standard deviation to each
    side; published values are hollow."""
    from matplotlib.figure import Figure

    series = series_of(table, parameter)
    published = bool(table.cells["published"].notna().any())
    names = [*(one.name for one in series), *[PUBLISHED] * published]
    legend = Legend(names, [other for other in (*table.rows[0], *table.columns[0]) if other != parameter], COLUMN)
    figure = Figure(figsize=(COLUMN, 2.3 + legend.height))
    axes = figure.subplots()
    handles = [_line(axes, one, place, table.metric) for place, one in enumerate(series)]
    if published:
        handles += axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=GREY)
    _across(axes, table, parameter)
    axes.set_ylabel(metric_label(table.metric))
    if table.section:
        axes.set_title(named(table.section))
    legend.put(figure, handles)
    return figure


def _line(axes: Any, series: Series, place: int, metric: str) -> Any:
    """Draw it; the part of it that stands in a legend."""
    ordered = sorted(series.cells.items(), key=lambda item: _place(item[0]))
    own, unit = look(place), height(metric)
    across = [_place(value) for value, _ in ordered]
    spread = [unit * cell["deviation"] for _, cell in ordered]
    line = axes.errorbar(
        across,
        [unit * cell["mean"] for _, cell in ordered],
        spread,
        color=own.colour,
        marker=own.marker,
        linestyle=own.dashes,
        elinewidth=0.8,
        label=series.name,
    )
    printed = [(_place(value), unit * cell["published"]) for value, cell in ordered if pd.notna(cell["published"])]
    if printed:
        style = {"marker": own.marker, "linestyle": "none", "markersize": 6, "label": f"{series.name} ({PUBLISHED})"}
        axes.plot(*zip(*printed, strict=True), markerfacecolor="none", markeredgecolor=own.colour, **style)
    return line.lines[0]


def _place(value: str) -> float:
    number = as_number(value)
    assert number is not None, value
    return number


def _across(axes: Any, table: ScoreTable, parameter: str) -> None:
    """The levels as they are written, with what was missing in effect below where that goes with them."""
    found = sorted({column[parameter] for column in table.columns}, key=_place)
    places = [_place(value) for value in found]
    if crowded(places):
        axes.set_xscale("log")
        axes.minorticks_off()
    missing, split = _in_effect(table, parameter)
    ticks = [f"{value}\n{percent(missing[value], 0)}" if missing else value for value in found]
    axes.set_xticks(places, ticks)
    axes.set_xlabel(f"{parameter} (below: effectively missing in {split})" if missing else parameter)


def crowded(places: Sequence[float]) -> bool:
    """Whether some of the ``places``, in their order, would run together on an axis that is not logarithmic."""
    gaps = [after - before for before, after in pairwise(places)]
    return bool(gaps) and places[0] > 0 and min(gaps) < NARROW * (places[-1] - places[0])


def _in_effect(table: ScoreTable, parameter: str) -> tuple[dict[str, float], str]:
    """Value -> share of all values that were missing, and the split: the first in which it differs between values of
    the parameter. Empty where methods do not agree on it: one may train on other sites than the rest."""
    values = {column[parameter] for column in table.columns}
    for split, name in {"train": "training", "test": "the test"}.items():
        known: dict[str, float] = {}
        for value in values:
            keys = [key for key in table.cells.index if table.columns[key[1]][parameter] == value]
            rates = table.cells.loc[keys, f"missing_{split}"]
            if rates.notna().all() and rates.max() - rates.min() < APART:
                known[value] = rates.sum() / len(rates)
        differ = max(known.values(), default=0.0) - min(known.values(), default=0.0) > APART
        if len(known) == len(values) and differ:
            return known, name
    return {}, ""

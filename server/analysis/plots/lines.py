"""Line plots: a metric against a parameter whose values are numbers, such as the missing rate, a line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd

from fedrecon_core.errors import UsageError
from server.analysis.plots.style import COLUMN, GREY, PUBLISHED, Drawing, Legend, look, unit_of, value_names
from server.analysis.rendering import metric_label
from server.analysis.results import SweepResults
from server.analysis.tables import Layout, ScoreTable, as_number, named
from server.runs.formatting import percent

NARROW = 0.09
"""Values that are closer than this share of the axis, about the width of a label, need a logarithmic axis."""
APART = 0.01
"""Effective missing rates that differ by less are considered the same."""


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
        raise UsageError("table.columns: expected an axis whose values are numbers for lines, found no axis")
    parameter = results.layout.columns[0]
    tables = results.tables()
    for value in (column[parameter] for table in tables for column in table.columns):
        if as_number(value) is None:
            advice = "--kind bars takes any, and --set columns=[AXIS] or --only another choice"
            raise UsageError(f"expected numbers as values of '{parameter}' for lines, found '{value}'; {advice}")
    return [Drawing.of_table("lines", table, partial(draw, table, parameter)) for table in tables]


def fits_lines(layout: Layout) -> bool:
    """Whether the values of the first parameter of the columns are numbers."""
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
    """Draw the figure (``matplotlib.figure.Figure``): means over seeds, with error bars of one standard deviation;
    published values are hollow marks. The values of the parameter are printed below the axis, with the effective
    missing rates if these differ between values."""
    from matplotlib.figure import Figure

    series = series_of(table, parameter)
    published = bool(table.cells["published"].notna().any())
    names = [*(one.name for one in series), *[PUBLISHED] * published]
    legend = Legend(names, [other for other in (*table.rows[0], *table.columns[0]) if other != parameter], COLUMN)
    figure = Figure(figsize=(COLUMN, 2.3 + legend.height))
    axes = figure.subplots()
    numbers = {column[parameter]: as_number(column[parameter]) or 0.0 for column in table.columns}
    values = sorted(numbers, key=numbers.__getitem__)
    handles = [_line(axes, one, place, table.metric, numbers) for place, one in enumerate(series)]
    if published:
        handles += axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=GREY)
    if crowded([numbers[value] for value in values]):
        axes.set_xscale("log")
        axes.minorticks_off()
    missing, split = effective_missing(table, parameter)
    labels = [f"{value}\n{percent(missing[value], 0)}" if missing else value for value in values]
    axes.set_xticks([numbers[value] for value in values], labels)
    axes.set_xlabel(f"{parameter} (below: effectively missing in {split})" if missing else parameter)
    axes.set_ylabel(metric_label(table.metric))
    if table.section:
        axes.set_title(named(table.section))
    legend.put(figure, handles)
    return figure


def _line(axes: Any, series: Series, place: int, metric: str, numbers: Mapping[str, float]) -> Any:
    """Draw one line; returns its handle for the legend."""
    ordered = sorted(((numbers[value], cell) for value, cell in series.cells.items()), key=lambda item: item[0])
    own, unit = look(place), unit_of(metric)
    line = axes.errorbar(
        [across for across, _ in ordered],
        [unit * cell["mean"] for _, cell in ordered],
        [unit * cell["deviation"] for _, cell in ordered],
        color=own.color,
        marker=own.marker,
        linestyle=own.dashes,
        elinewidth=0.8,
        label=series.name,
    )
    printed = [(across, unit * cell["published"]) for across, cell in ordered if pd.notna(cell["published"])]
    if printed:
        style = {"marker": own.marker, "linestyle": "none", "markersize": 6, "label": f"{series.name} ({PUBLISHED})"}
        axes.plot(*zip(*printed, strict=True), markerfacecolor="none", markeredgecolor=own.color, **style)
    return line.lines[0]


def crowded(places: Sequence[float]) -> bool:
    """Whether labels at ``places`` (ascending) would overlap on a linear axis, and a logarithmic one is possible."""
    gaps = [after - before for before, after in pairwise(places)]
    return bool(gaps) and places[0] > 0 and min(gaps) < NARROW * (places[-1] - places[0])


def effective_missing(table: ScoreTable, parameter: str) -> tuple[dict[str, float], str]:
    """The share of all data values that were missing, by value of ``parameter``, and its split: training, or else the
    test. Empty if it does not depend on the parameter, or if methods differ in it because they train on different
    sites.
    """
    values = {column[parameter] for column in table.columns}
    for split, name in {"train": "training", "test": "the test"}.items():
        found: dict[str, float] = {}
        for value in values:
            keys = [key for key in table.keys if table.columns[key[1]][parameter] == value]
            rates = table.cells[f"missing_{split}"].loc[keys]
            if rates.notna().all() and rates.max() - rates.min() < APART:
                found[value] = rates.sum() / len(rates)
        if len(found) == len(values) and max(found.values()) - min(found.values()) > APART:
            return found, name
    return {}, ""

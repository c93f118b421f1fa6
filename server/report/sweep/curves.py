"""The curves of a sweep's report: scores over an axis of numbers, and over the rounds of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from server.analysis.grids import Entry, Grid
from server.analysis.layout import Labels, as_number, named
from server.analysis.plots.lines import crowded, fits_lines, series_of
from server.analysis.plots.style import value_names
from server.analysis.tables import metric_title, score
from server.report.charts import Across, Series, line_chart
from server.report.markup import NOTHING, Markup, joined, paragraph, table, tag, unfold
from server.report.sweep.view import View
from server.runs.formatting import count, decimal, percent, plural
from server.runs.record import read_metrics
from server.runs.summary import Points, points
from server.sweep.table import LOSS


def by_value(view: View) -> Markup:
    """Every metric over the first axis of the columns, if its levels are numbers: a line for each method."""
    if view.layout is None or not fits_lines(view.layout):
        return NOTHING
    parameter = view.layout.columns[0]
    drawn = [_over(grid, parameter) for grid in view.grids if len({column[parameter] for column in grid.columns}) > 1]
    if not drawn:
        return NOTHING
    about = (
        f"Test scores over {parameter}: means over the seeds, with a bar of one standard deviation to each side. The "
        "tables above hold the numbers; point at a mark to read one."
    )
    return joined([paragraph(about), tag("div", *drawn, class_="charts")])


def _over(grid: Grid, parameter: str) -> Markup:
    place = _places(sorted({column[parameter] for column in grid.columns}, key=_number))
    drawn = []
    for line in series_of(grid, parameter):
        fields = {place[value]: entry for value, entry in line.fields.items()}
        means = tuple(sorted((at, entry.mean) for at, entry in fields.items()))
        spreads = {at: entry.deviation for at, entry in fields.items() if entry.deviation is not None}
        notes = {at: _note(entry, grid.metric) for at, entry in fields.items()}
        drawn.append(Series(line.name, means, spreads, notes))
    across = Across(parameter, {at: value for value, at in place.items()})
    return line_chart(_title(grid, {}), drawn, _written(grid.metric), across=across)


def _places(ordered: Sequence[str]) -> dict[str, float]:
    """Level -> its place: its number, or the logarithm where some would run together."""
    numbers = [_number(value) for value in ordered]
    return dict(zip(ordered, map(math.log10, numbers) if crowded(numbers) else numbers, strict=True))


def _number(value: str) -> float:
    number = as_number(value)
    assert number is not None, value
    return number


def _note(entry: Entry, metric: str) -> str:
    """What a mark says besides its mean: ``± 0.4 over 3 seeds; published: 57.8``."""
    spread = f" ± {score(entry.deviation, metric)}" if entry.deviation is not None else ""
    printed = f"; published: {score(entry.published.value, metric)}" if entry.published else ""
    return f"{spread} over {plural(len(entry.scores), 'seed')}{printed}"


def learning(view: View) -> Markup:
    """Validation scores by round, a chart for each metric and column, a line for each row."""
    read = {result.directory: read_metrics(result.directory) for result in view.results}

    def mean_of(entry: Entry, metric: str) -> Points:
        found = [points(read[result.directory], "validation", metric) for result in entry.results]
        return _mean([one for one in found if one])

    drawn = [part for grid in view.grids for part in _charts(grid, mean_of)]
    if not drawn:
        return NOTHING
    about = (
        "Validation scores by round: means over the complete cells that still have them (metrics.jsonl), in the rounds "
        "that all of these scored. The test scores above are those of each cell's best round."
    )
    return joined([paragraph(about), tag("div", *drawn, class_="charts")])


def _charts(grid: Grid, mean_of: Callable[[Entry, str], Points]) -> Iterator[Markup]:
    for place, column in enumerate(grid.columns):
        own = {row: mean_of(entry, grid.metric) for (row, _), entry in grid.column(place).items()}
        names = [value_names(row) or metric_title(grid.metric) for row in grid.rows]
        drawn = [Series(name, own.get(row, ())) for row, name in enumerate(names)]
        chart = line_chart(_title(grid, column), drawn, _written(grid.metric))
        if chart:
            shown = [one for one in drawn if one.points]
            yield tag("div", chart, _rounds(_title(grid, column), shown, _written(grid.metric)))


def _mean(found: Sequence[Points]) -> Points:
    """By round, where every one of them has it."""
    by_round = [dict(one) for one in found]
    common = set.intersection(*map(set, by_round)) if by_round else set()
    return tuple((turn, fmean(one[turn] for one in by_round)) for turn in sorted(common))


def _rounds(title: str, drawn: Sequence[Series], written: Callable[[float], str]) -> Markup:
    columns = [dict(one.points) for one in drawn]
    rounds = sorted({turn for column in columns for turn in column})
    rows = [[count(turn), *(written(c[turn]) if turn in c else None for c in columns)] for turn in rounds]
    shown = table(f"Validation, {title}, by round", ["Round", *(one.name for one in drawn)], rows)
    return unfold("The numbers behind the curves", shown)


def _title(grid: Grid, column: Labels) -> str:
    where = named({**grid.section, **column})
    return f"{metric_title(grid.metric)}{f': {where}' if where else ''}"


def _written(metric: str) -> Callable[[float], str]:
    return decimal if metric == LOSS else percent

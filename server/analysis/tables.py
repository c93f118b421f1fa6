"""Grids as sheets of text, which every format only has to set: scores, what they cost, and differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.analysis.bootstrap import DRAWS
from server.analysis.compute_cost import Spent, spent
from server.analysis.grids import Entry, Grid
from server.analysis.layout import Labels, named
from server.analysis.results import Result, mean
from server.runs.formatting import DASH, count, percent, size
from server.runs.summary import TITLES
from server.sweep.table import LOSS

SURENESS = (
    "Interval and p are Student's, with as many degrees of freedom as the scarcer of seeds and groups less one; the "
    "variance is that of seeds and that of the groups of test samples (subjects, source images), the latter by "
    f"{DRAWS} bootstrap draws. Of one seed the interval is that of groups alone, for this one training. Holm's "
    "p-values allow for all rivals that are compared under the same conditions; intervals are not adjusted."
)


@dataclass(frozen=True)
class Text:
    """What stands in a field; ``place`` 1 is to be bold, 2 underlined."""

    words: str
    place: int = 0


@dataclass(frozen=True)
class Sheet:
    """A table of text with its title, and sentences about it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Text]]
    about: Sequence[str] = ()
    left: int = 1
    """How many columns, from the first on, hold names; the others hold numbers."""


def sheets(grids: Sequence[Grid]) -> Iterator[Sheet]:
    """The scores of every grid, then what sets its fields apart, and once per section what they cost."""
    costed: list[Labels] = []
    for grid in grids:
        yield _scores(grid)
        if any(entry.difference for entry in grid.entries.values()) or grid.notes:
            yield _differences(grid)
        if grid.section not in costed:
            costed.append(grid.section)
            yield _costs(grid)


def score(value: float, metric: str) -> str:
    """A share as per cent without the sign, ``57.8``; a loss as it is, ``0.942``."""
    text = f"{value:.3f}" if metric == LOSS else f"{100 * value:.1f}"
    return text.removeprefix("-") if _nought(text) else text


def gain(value: float, metric: str) -> str:
    """A difference in the same words, ``+1.2``."""
    text = score(value, metric)
    return f"+{text}" if value > 0 and not _nought(text) else text


def _nought(text: str) -> bool:
    """What is printed as nought has no sign."""
    return not text.strip("-0.")


def metric_title(metric: str) -> str:
    """The metric as a heading."""
    return TITLES.get(metric, metric.capitalize())


def metric_label(metric: str) -> str:
    """The metric with its unit."""
    return f"{metric_title(metric)}{'' if metric == LOSS else ' (%)'}"


def _title(what: str, section: Labels) -> str:
    return f"{what}: {named(section)}" if section else what


def _scores(grid: Grid) -> Sheet:
    most = max(len(entry.scores) for entry in grid.entries.values())
    header = [*_parameters(grid.rows), *(named(column) or metric_title(grid.metric) for column in grid.columns)]
    rows = [
        [*_values(row), *(_field(grid, (down, across), most) for across in range(len(grid.columns)))]
        for down, row in enumerate(grid.rows)
    ]
    title = _title(metric_label(grid.metric), grid.section)
    return Sheet(title, header, rows, _told(grid, most), _left(grid))


def _told(grid: Grid, most: int) -> list[str]:
    """What a reader of the scores has to know."""
    entries = grid.entries.values()
    words = [f"Test scores: mean ± standard deviation over {most} seeds." if most > 1 else "Test scores of one seed."]
    if any(entry.place for entry in entries):
        words.append("Bold: the best of its rivals; underlined: the second.")
    if any(len(entry.scores) < most for entry in entries):
        words.append("A mean over fewer seeds (n) is beside means over others.")
    if any(entry.published for entry in entries):
        words.append("In brackets: published.")
    return [" ".join(words), *grid.remarks]


def _left(grid: Grid) -> int:
    return len(_parameters(grid.rows))


def _parameters(rows: Sequence[Labels]) -> list[str]:
    return list(rows[0]) if rows else []


def _values(labels: Labels) -> list[Text]:
    return [Text(value) for value in labels.values()]


def _field(grid: Grid, key: tuple[int, int], most: int) -> Text:
    entry = grid.entries.get(key)
    if entry is None:
        return Text(DASH)
    spread = f" ± {score(entry.deviation, grid.metric)}" if entry.deviation is not None else ""
    fewer = f" (n = {len(entry.scores)})" if len(entry.scores) < most else ""
    published = f" [{entry.published.printed}]" if entry.published else ""
    return Text(f"{score(entry.mean, grid.metric)}{spread}{fewer}{published}", entry.place)


def _costs(grid: Grid) -> Sheet:
    parameters = [*_parameters(grid.rows), *_parameters(grid.columns)]
    time = spent([result for entry in grid.entries.values() for result in entry.results])
    rows = [
        [*_values({**grid.rows[row], **grid.columns[column]}), *map(Text, _cost(entry.results, time))]
        for (row, column), entry in sorted(grid.entries.items())
    ]
    header = [*parameters, "Seeds", "Missing in training", "Missing in test", "Tensor bytes", "Parameters", time.head]
    about = [
        "Means over the seeds. Missing: the share of all values of the modalities that were absent in effect. Tensor "
        f"bytes: both ways, all sites and rounds. {time.about}"
    ]
    return Sheet(_title("What the scores cost", grid.section), header, rows, about, len(parameters))


def _cost(results: Sequence[Result], time: Spent) -> list[str]:
    return [
        str(len(results)),
        percent(mean(results, lambda result: result.missing.get("train"))),
        percent(mean(results, lambda result: result.missing.get("test"))),
        size(mean(results, lambda result: result.bytes)),
        count(mean(results, lambda result: result.parameters)),
        time.written(mean(results, time.of)),
    ]


def _differences(grid: Grid) -> Sheet:
    parameters = [*_parameters(grid.rows), *_parameters(grid.columns)]
    rows = [
        [*_values({**grid.rows[row], **grid.columns[column]}), *map(Text, _difference(grid, entry))]
        for (row, column), entry in sorted(grid.entries.items(), key=lambda item: item[0][::-1])
        if entry.difference is not None
    ]
    header = [*parameters, "Difference", "95% interval", "p", "p (Holm)", "Seeds", "Test groups"]
    baseline = named(grid.baseline)
    sure = any(entry.difference and entry.difference.interval for entry in grid.entries.values())
    about = [f"Paired by seed.{f' {SURENESS}' if sure else ''}"] if rows else []
    title = _title(f"{metric_title(grid.metric)} less that of {baseline}{points(grid.metric)}", grid.section)
    return Sheet(title, header, rows, [*about, *grid.notes], len(parameters))


def points(metric: str) -> str:
    """The unit of a difference, behind its name."""
    return "" if metric == LOSS else " (points)"


def _difference(grid: Grid, entry: Entry) -> list[str]:
    found = entry.difference
    assert found is not None
    signed, seeds = gain(found.mean, grid.metric), str(found.seeds)
    if (interval := found.interval) is None:
        return [signed, DASH, DASH, DASH, seeds, DASH]
    low, high = score(interval.low, grid.metric), score(interval.high, grid.metric)
    return [signed, f"{low} to {high}", _p(found.p), _p(found.adjusted), seeds, count(interval.clusters)]


def _p(value: float | None) -> str:
    if value is None:  # of a single seed; and a bound has no adjusted one: it is no rival
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"

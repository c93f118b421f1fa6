"""The sections of a sweep's report but for its curves: a `View` in, the section's content out, or nothing to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.comparison.grids import Entry, Grid
from server.comparison.layout import Labels, named
from server.comparison.page.view import View, entries_of, link
from server.comparison.results import mean
from server.comparison.sheets import Sheet, Text, metric_title, score, sheets
from server.report.charts import bar
from server.report.formats import DASH, percent, plural, seconds, size
from server.report.markup import Child, Markup, joined, left, paragraph, table, tag, unfold
from server.report.order import sort_key
from server.report.page import REPORT
from server.sweep.record import CELLS, LOG, SWEEP, CellRecord, State, ending
from server.sweep.table import LOSS

ERROR_SHOWN = 300  # characters of an error that are shown at once; the rest is folded away
_MARKS = {1: "b", 2: "u"}
NOTHING = Markup("")


def scores(view: View) -> Markup:
    """The tables of ``fedrecon table``: scores, what sets them apart, and what they cost."""
    return joined(part for sheet in sheets(view.grids) for part in _sheet(sheet))


def _sheet(sheet: Sheet) -> Iterator[Markup]:
    yield tag("h3", sheet.title)
    if sheet.rows:
        head = [*sheet.header[:1], *map(left, sheet.header[1 : sheet.left]), *sheet.header[sheet.left :]]
        yield table(sheet.title, head, [list(_fields(sheet, row)) for row in sheet.rows])
    yield from (paragraph(sentence, class_="hint") for sentence in sheet.about)


def _fields(sheet: Sheet, row: Sequence[Text]) -> Iterator[Child]:
    for place, text in enumerate(row):
        words = tag(_MARKS[text.place], text.words) if text.place else text.words
        if place == 0:
            yield words
        else:
            name = "text" if place < sheet.left else None
            yield tag("td", words, class_=name, data_sort=sort_key(text.words))


def costs(view: View) -> Markup:
    """Bytes and training time of each method, as bars: means over its complete cells."""
    every = [entry for grid in view.sections for _, entry in entries_of(grid)]
    most = [max((value or 0.0 for value in map(number_of, every)), default=0.0) for number_of in (_bytes, _seconds)]
    if not any(most):
        return NOTHING
    about = "Means over the seeds of a row's complete cells. A full bar is the most that any row has."
    return joined([paragraph(about), *(part for grid in view.sections for part in _costs(grid, most))])


def _costs(grid: Grid, most: Sequence[float]) -> Iterator[Markup]:
    title = named(grid.section)
    if title:
        yield tag("h3", title)
    rows = [[*_levels(labels), *_bars(labels, entry, most)] for labels, entry in entries_of(grid)]
    axes = [*grid.rows[0], *grid.columns[0]]
    head = [*(axes[:1] or ["Method"]), *map(left, axes[1:]), left("Traffic"), "Bytes", left("Training"), "Time"]
    yield table(f"Traffic and training time{f': {title}' if title else ''}", head, rows)


def _levels(labels: Labels) -> list[Child]:
    """The first as a row's head."""
    first, *others = labels.values() or ("all",)
    return [first, *(tag("td", level, class_="text") for level in others)]


def _bars(labels: Labels, entry: Entry, most: Sequence[float]) -> Iterator[Child]:
    for value, whole, written in zip((_bytes(entry), _seconds(entry)), most, (size, seconds), strict=True):
        shown = bar([(f"{named(labels)}: {written(value)}", value or 0.0)], whole)
        yield tag("td", shown, class_="wide", data_sort=DASH if value is None else f"{value:.12g}")
        yield written(value)


def _bytes(entry: Entry) -> float | None:
    return mean(entry.results, lambda result: result.bytes)


def _seconds(entry: Entry) -> float | None:
    return mean(entry.results, lambda result: result.train_seconds)


def failures(view: View) -> Markup:
    """The cells that failed, each with its reason and the path of its log."""
    failed = view.having(State.FAILED)
    if not failed:
        return NOTHING
    rows = [[named(cell.labels), tag("td", *_reason(cell), class_="text"), _log(view, cell)] for cell in failed]
    about = paragraph(
        *("The same ", tag("code", "fedrecon sweep"), " tries them again."),
        " The log of a cell holds all that its process said.",
    )
    return joined([about, table("Failed cells", ["Cell", left("Reason"), left("Log")], rows, "reasons")])


def _reason(cell: CellRecord) -> Iterator[Markup | str]:
    told = str(ending(cell.directory).get("error") or "it did not say why")
    brief = told.splitlines()[0][:ERROR_SHOWN]
    yield brief
    if brief != told:
        yield unfold("Whole error", tag("pre", told))


def _log(view: View, cell: CellRecord) -> Markup:
    path = cell.directory / LOG
    words = f"{CELLS}/{cell.directory.name}/{LOG}"
    return tag("td", link(view, path, words) or f"{words} (not there)", class_="text")


def cells(view: View) -> Markup:
    """Every cell: its levels, how it stands, its scores, and its own report."""
    if not view.record.cells:
        return NOTHING
    axes, metrics = list(view.record.axes), list(dict.fromkeys(grid.metric for grid in view.grids))
    found = {result.directory: result for result in view.results}
    rows = []
    for cell in view.record.cells:
        result = found.get(cell.directory)
        own = [result.scores.get(metric) if result else None for metric in metrics]
        spent = seconds(result.train_seconds) if result else DASH
        last = tag("td", link(view, cell.directory / REPORT, "report") or DASH, class_="text")
        rows.append([*_levels(cell.labels), _state(cell), *map(_score, own, metrics), spent, last])
    titles = [f"Test {metric_title(metric)}" for metric in metrics]
    head = [*axes[:1], *map(left, axes[1:]), left("State"), *titles, "Training time", left("Report")]
    return table(f"The cells of the sweep ({plural(len(rows), 'cell')})", head, rows)


def _state(cell: CellRecord) -> Markup:
    return tag("td", cell.status, class_=f"text state-{cell.status}")


def _score(value: float | None, metric: str) -> str:
    if value is None:
        return DASH
    return score(value, metric) if metric == LOSS else percent(value)


def details(view: View) -> Markup:
    """What was asked for: ``sweep.yaml``."""
    about = paragraph(
        *(tag("code", "fedrecon sweep"), " goes on with this directory; ", tag("code", "fedrecon report")),
        f" writes this page again. {SWEEP} says what each level sets; config.yaml in the folder of a cell is the whole "
        "config that ",
        *(tag("code", "fedrecon run"), " repeats it with."),
    )
    return joined([about, unfold(f"The sweep ({SWEEP})", tag("pre", tag("code", view.text)))])

"""The sections of a sweep's report but for its curves: a `View` in, the section's content out, or nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from server.analysis.compute_cost import spent
from server.analysis.grids import Entry, Grid
from server.analysis.layout import Labels, named
from server.analysis.results import Result, mean
from server.analysis.tables import Sheet, Text, metric_title, score, sheets
from server.report.again import command
from server.report.charts import bar
from server.report.markup import NOTHING, Child, Markup, abridged, joined, left, paragraph, table, tag, unfold_text
from server.report.order import sort_key
from server.report.page import REPORT
from server.report.sweep.view import View, entries_of, link
from server.runs.formatting import DASH, percent, plural, size
from server.sweep.record import LOG, SWEEP, TRIALS, State, TrialRecord, ending
from server.sweep.table import LOSS

_MARKS = {1: "b", 2: "u"}


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


@dataclass(frozen=True)
class Scale:
    """What bars show: a number ``of`` a result, the ``most`` that any row has, and how it is ``written``."""

    of: Callable[[Result], float | None]
    most: float
    written: Callable[[float | None], str]


def costs(view: View) -> Markup:
    """Bytes and training time of each method, as bars: means over its complete cells."""
    time = spent(view.results)
    measures = [(lambda result: result.bytes, size), (time.of, time.written)]
    every = [entry.results for grid in view.sections for _, entry in entries_of(grid)]
    scales = [Scale(of, max((mean(own, of) or 0.0 for own in every), default=0.0), as_text) for of, as_text in measures]
    if not any(scale.most for scale in scales):
        return NOTHING
    about = f"Means over the seeds of a row's complete cells. A full bar is the most that any row has. {time.about}"
    parts = [part for grid in view.sections for part in _costs(grid, scales, time.head)]
    return joined([paragraph(about), *parts])


def _costs(grid: Grid, scales: Sequence[Scale], time: str) -> Iterator[Markup]:
    title = named(grid.section)
    if title:
        yield tag("h3", title)
    rows = [[*_values(labels), *_bars(labels, entry, scales)] for labels, entry in entries_of(grid)]
    parameters = [*grid.rows[0], *grid.columns[0]]
    head = [
        *(parameters[:1] or ["Method"]),
        *map(left, parameters[1:]),
        left("Traffic"),
        "Bytes",
        left("Training"),
        time,
    ]
    yield table(f"Traffic and training time{f': {title}' if title else ''}", head, rows)


def _values(labels: Labels) -> list[Child]:
    """The first as a row's head."""
    first, *others = labels.values() or ("all",)
    return [first, *(tag("td", value, class_="text") for value in others)]


def _bars(labels: Labels, entry: Entry, scales: Sequence[Scale]) -> Iterator[Child]:
    for scale in scales:
        value = mean(entry.results, scale.of)
        shown = bar([(f"{named(labels)}: {scale.written(value)}", value or 0.0)], scale.most)
        yield tag("td", shown, class_="wide", data_sort=DASH if value is None else f"{value:.12g}")
        yield scale.written(value)


def failures(view: View) -> Markup:
    """The cells that failed, each with its reason and the path of its log."""
    failed = view.having(State.FAILED)
    if not failed:
        return NOTHING
    rows = [[named(trial.labels), tag("td", *_reason(trial), class_="text"), _log(view, trial)] for trial in failed]
    about = paragraph(
        *("The same ", tag("code", "fedrecon sweep"), " tries them again."),
        " The log of a cell holds all that its process said.",
    )
    return joined([about, table("Failed cells", ["Cell", left("Reason"), left("Log")], rows, "reasons")])


def _reason(trial: TrialRecord) -> tuple[str, Markup | None]:
    return abridged("Whole error", str(ending(trial.directory).get("error") or "it did not say why"))


def _log(view: View, trial: TrialRecord) -> Markup:
    path = trial.directory / LOG
    words = f"{TRIALS}/{trial.directory.name}/{LOG}"
    return tag("td", link(view, path, words) or f"{words} (not there)", class_="text")


def trials(view: View) -> Markup:
    """Every cell: its levels, how it stands, its scores, and its own report."""
    if not view.record.trials:
        return NOTHING
    parameters, metrics = list(view.record.parameters), list(dict.fromkeys(grid.metric for grid in view.grids))
    found, time = {result.directory: result for result in view.results}, spent(view.results)
    rows = []
    for trial in view.record.trials:
        result = found.get(trial.directory)
        own = [result.scores.get(metric) if result else None for metric in metrics]
        worked = time.written(time.of(result)) if result else DASH
        last = tag("td", link(view, trial.directory / REPORT, "report") or DASH, class_="text")
        rows.append([*_values(trial.labels), _state(trial), *map(_score, own, metrics), worked, last])
    titles = [f"Test {metric_title(metric)}" for metric in metrics]
    head = [*parameters[:1], *map(left, parameters[1:]), left("State"), *titles, time.head, left("Report")]
    return table(f"The cells of the sweep ({plural(len(rows), 'cell')})", head, rows)


def _state(trial: TrialRecord) -> Markup:
    return tag("td", trial.status, class_=f"text state-{trial.status}")


def _score(value: float | None, metric: str) -> str:
    if value is None:
        return DASH
    return score(value, metric) if metric == LOSS else percent(value)


def details(view: View) -> Markup:
    """What was asked for: ``sweep.yaml``."""
    about = paragraph(
        *(tag("code", "fedrecon sweep CONFIG --out DIR"), " goes on with this directory, DIR; "),
        tag("code", "fedrecon report DIR"),
        f" writes this page again. {SWEEP} says what each level sets; config.yaml in the folder of a cell is the whole "
        "config that ",
        *(tag("code", "fedrecon run"), " repeats it with."),
    )
    first = [result.directory for result in view.results][:1]
    again = [part for trial in first for part in command(f"{TRIALS}/{trial.name}/config.yaml", "repeated")]
    return joined([about, *again, unfold_text(f"The sweep ({SWEEP})", view.text)])

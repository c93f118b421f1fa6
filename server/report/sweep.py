"""The report of a sweep, finished or not: its complete trials compared, and the state of the others.

Each section has a function that builds its context for the template; it returns None if there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from fedrecon_core.errors import FedReconError
from fedrecon_core.metrics.base import is_percentage, metric_title
from server.analysis.plots.lines import crowded, fits_lines, series_of
from server.analysis.plots.style import value_names
from server.analysis.published import Labels
from server.analysis.rendering import Sheet, TimeColumn, known, score, sheets, time_column
from server.analysis.results import load_results
from server.analysis.tables import Layout, ScoreTable, as_number, named
from server.analysis.trials import METRICS, Sweep, load_sweep, mean_curve, total
from server.report.charts import Axis, Chart, RoundsTable, Series, line_chart, rounds_table
from server.report.page import REPORT, Section, Tile, render, write_page
from server.runs.formatting import count, decimal, percent, plural, seconds, size
from server.sweep.parameters import SEED
from server.sweep.record import LOG, SWEEP, TRIALS, State

MEANINGS = {
    State.COMPLETE: "ran to the end",
    State.FAILED: "ended with an error",
    State.UNFINISHED: "not finished",
    State.MISSING: "not started",
}
BADGES = {"complete": "completed", "failed trials": "failed", "unfinished": "unfinished"}
"""State of the sweep -> CSS class."""


# --- the data of the report -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A sweep and the tables that compare its complete ``trials``.

    ``sweep_yaml`` is the text of the file, ``error`` the reason why complete trials could not be compared (empty if
    they could), ``remarks`` are sentences on the trials and on the published values.
    """

    directory: Path
    sweep: Sweep
    sweep_yaml: str
    trials: pd.DataFrame
    layout: Layout | None = None
    tables: Sequence[ScoreTable] = ()
    error: str = ""
    remarks: Sequence[str] = ()

    def count(self, state: State) -> int:
        """Return the number of trials in a state."""
        return int((self.sweep.trials["status"] == state).sum())

    def href(self, path: Path) -> str | None:
        """Return a relative link to a file of the sweep; None if it does not exist or is elsewhere."""
        if not path.is_file() or not path.is_relative_to(self.directory):
            return None
        return quote(path.relative_to(self.directory).as_posix())


def load_comparison(directory: Path) -> Comparison:
    """Read the sweep in ``directory`` and compare its complete trials.

    Raises:
        DataError: ``directory`` is not the directory of a sweep, or its ``sweep.yaml`` is damaged.
    """
    try:
        results = load_results(directory)
        tables, remarks = results.compared_tables(), results.caveats()
    except FedReconError as error:
        sweep = load_sweep(directory)
        complete = sweep.complete  # it is no error if there are none
        return Comparison(directory, sweep, _sweep_yaml(directory), complete, error=str(error) if len(complete) else "")
    sweep, text = results.sweep, _sweep_yaml(directory)
    return Comparison(directory, sweep, text, results.trials, results.layout, tables, remarks=remarks)


def _sweep_yaml(directory: Path) -> str:
    return (directory / SWEEP).read_text(encoding="utf-8", errors="replace")


# --- the page -------------------------------------------------------------------------------------------------------


def write_sweep_report(directory: Path) -> Path:
    """Write ``report.html`` into the directory of a sweep, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is not the directory of a sweep.
        RunError: the page cannot be written.
    """
    return write_page(directory, render_sweep(load_comparison(directory)))


def render_sweep(comparison: Comparison) -> str:
    """Return the whole page as HTML."""
    top = {"name": comparison.sweep.name, "closing": "Written by FedRecon.", "sweep": overview(comparison)}
    return render("sweep.html.md", comparison, SECTIONS, tiles=list(tiles(comparison)), **top)


def overview(comparison: Comparison) -> dict[str, Any]:
    """Collect the context of heading and notices: parameters with their values, numbers of trials, and remarks."""
    complete, failed = comparison.count(State.COMPLETE), comparison.count(State.FAILED)
    trials, parameters = len(comparison.sweep.trials), comparison.sweep.parameters
    state = "failed trials" if failed else "complete" if complete == trials else "unfinished"
    return {
        "state": state,
        "badge": BADGES[state],
        "trials": trials,
        "parameters": {name: values for name, values in parameters.items() if name != SEED},
        "seeds": len(parameters.get(SEED, ())),
        "failed": failed,
        "left_out": trials - complete if complete else 0,
        "remarks": comparison.remarks,
        "error": comparison.error,
    }


def tiles(comparison: Comparison) -> Iterator[Tile]:
    """Yield the number of trials in each state, and the total cost of the complete ones."""
    for state, meaning in MEANINGS.items():
        whole = f" of {len(comparison.sweep.trials)}" if state is State.COMPLETE else ""
        yield Tile(state.capitalize(), f"{count(comparison.count(state))}{whole}", meaning)
    wall, sent = (total([known(value) for value in comparison.trials[name]]) for name in ("wall_seconds", "bytes"))
    yield Tile("Total time", seconds(wall), "of the complete trials, one after the other")
    yield Tile("Tensor bytes", size(sent), "both ways, all complete trials")


def scores(comparison: Comparison) -> list[Sheet] | None:
    """Return the tables of ``fedrecon table``: scores, differences, and costs."""
    return list(sheets(comparison.tables)) or None


def curves_by_value(comparison: Comparison) -> dict[str, Any] | None:
    """Draw every metric over the first parameter of the columns, if its values are numbers: a line for each method."""
    if comparison.layout is None or not fits_lines(comparison.layout):
        return None
    parameter = comparison.layout.columns[0]
    tables = [table for table in comparison.tables if len({column[parameter] for column in table.columns}) > 1]
    charts = [chart for table in tables if (chart := _curve_by_value(table, parameter))]
    return {"parameter": parameter, "charts": charts} if charts else None


def _curve_by_value(table: ScoreTable, parameter: str) -> Chart | None:
    """Draw one table; the axis is logarithmic if values would be too close to each other on a linear one."""
    values = {column[parameter] for column in table.columns}
    numbers = {value: number for value in values if (number := as_number(value)) is not None}
    position = dict(sorted(numbers.items(), key=lambda item: item[1]))
    if crowded(list(position.values())):
        position = {value: math.log10(number) for value, number in position.items()}
    drawn = []
    for line in series_of(table, parameter):
        means, spreads, notes = [], {}, {}
        for value, cell in line.cells.items():
            at, spread, published = position[value], "", ""
            means.append((at, cell["mean"]))
            if pd.notna(cell["deviation"]):
                spreads[at] = cell["deviation"]
                spread = f" ± {score(cell['deviation'], table.metric)}"
            if pd.notna(cell["published"]):
                published = f"; published: {score(cell['published'], table.metric)}"
            notes[at] = f"{spread} over {plural(cell['seeds'], 'seed')}{published}"
        drawn.append(Series(line.name, tuple(sorted(means)), spreads, notes))
    axis = Axis(parameter, {at: value for value, at in position.items()})
    return line_chart(_title(table, {}), drawn, _score_format(table.metric), axis=axis)


def learning_curves(comparison: Comparison) -> list[tuple[Chart, RoundsTable]] | None:
    """Draw validation scores by round: a chart for each metric and column, a line for each row."""
    charts = []
    for table in comparison.tables:
        label, keys = _score_format(table.metric), set(table.keys)
        for place, column in enumerate(table.columns):
            lines = []
            for key, row in (((down, place), row) for down, row in enumerate(table.rows)):
                trials = table.cell(key)["trials"] if key in keys else None
                points = () if trials is None else mean_curve(comparison.sweep.curves, trials, table.metric)
                lines.append(Series(value_names(row) or metric_title(table.metric), tuple(points)))
            title = _title(table, column)
            if chart := line_chart(title, lines, label):
                columns = [(line.name, line.points, label) for line in lines if line.points]
                charts.append((chart, rounds_table(f"Validation, {title}, by round", columns)))
    return charts or None


def _title(table: ScoreTable, column: Labels) -> str:
    where = named({**table.section, **column})
    return f"{metric_title(table.metric)}{f': {where}' if where else ''}"


def _score_format(metric: str) -> Callable[[float | None], str]:
    return percent if is_percentage(metric) else decimal


@dataclass(frozen=True)
class Cost:
    """Means over the complete trials of one row; ``time`` is in seconds."""

    values: list[str]
    name: str
    bytes: float | None
    time: float | None


@dataclass(frozen=True)
class Costs:
    """Bytes and training time of each method: per section of the tables its title, parameters and rows.

    ``most_bytes`` and ``most_time`` are the largest of all rows.
    """

    tables: list[tuple[str, list[str], list[Cost]]]
    time: TimeColumn
    most_bytes: float
    most_time: float


def costs(comparison: Comparison) -> Costs | None:
    """Compare the bytes and the training time of the methods: means over the seeds."""
    time, tables = time_column(comparison.trials), []
    by_section: dict[str, ScoreTable] = {}
    for table in comparison.tables:  # costs do not depend on the metric, so one table of each section is enough
        by_section.setdefault(named(table.section), table)
    for title, table in by_section.items():
        rows = []
        for row, column in table.keys:
            labels, cell = {**table.rows[row], **table.columns[column]}, table.cell((row, column))
            values = known(cell["tensor_bytes"]), known(cell[time.column])
            rows.append(Cost(list(labels.values()) or ["all"], named(labels), *values))
        tables.append((title, [*table.rows[0], *table.columns[0]] or ["Method"], rows))
    every = [row for _, _, rows in tables for row in rows]
    most_bytes = max((row.bytes or 0.0 for row in every), default=0.0)
    most_time = max((row.time or 0.0 for row in every), default=0.0)
    return Costs(tables, time, most_bytes, most_time) if most_bytes or most_time else None


@dataclass(frozen=True)
class Failure:
    """A failed trial: its values, its error, and its log (``href`` is None if there is no file to link)."""

    name: str
    error: str
    log: str
    href: str | None


def failures(comparison: Comparison) -> list[Failure] | None:
    """List the trials that failed, each with its reason and the path of its log."""
    sweep = comparison.sweep
    found = [
        Failure(
            named(sweep.labels(trial)),
            sweep.value(trial, "error") or "no reason was given",
            f"{TRIALS}/{trial}/{LOG}",
            comparison.href(sweep.directory_of(trial) / LOG),
        )
        for trial in sweep.names
        if sweep.value(trial, "status") == State.FAILED
    ]
    return found or None


@dataclass(frozen=True)
class TrialRow:
    """One trial: its values, its state, its scores as (text, score), and a link to its report, if it has one."""

    values: list[str]
    state: str
    scores: list[tuple[str, float | None]]
    time: float | None
    report: str | None


def trials(comparison: Comparison) -> dict[str, Any] | None:
    """List every trial: its values, its state, its scores, and its own report."""
    sweep, time = comparison.sweep, time_column(comparison.trials)
    if sweep.trials.empty:
        return None
    metrics, rows = list(dict.fromkeys(table.metric for table in comparison.tables)), []
    for trial in sweep.names:
        state = str(sweep.value(trial, "status"))
        complete = state == State.COMPLETE
        scored: list[tuple[str, float | None]] = []
        for metric in metrics:
            value = known(sweep.value(trial, METRICS + metric)) if complete else None
            scored.append((percent(value) if is_percentage(metric) or value is None else score(value, metric), value))
        rows.append(
            TrialRow(
                list(sweep.labels(trial).values()) or ["all"],
                state,
                scored,
                known(sweep.value(trial, time.column)) if complete else None,
                comparison.href(sweep.directory_of(trial) / REPORT),
            )
        )
    titles = [f"Test {metric_title(metric)}" for metric in metrics]
    return {"parameters": list(sweep.parameters), "titles": titles, "time": time, "rows": rows}


def details(comparison: Comparison) -> dict[str, Any]:
    """Return ``sweep.yaml`` and, if a trial is complete, the path of its config, with which it can be repeated."""
    packed = comparison.sweep.packed
    complete = () if packed else map(str, comparison.sweep.complete.index)
    config = next((f"{TRIALS}/{trial}/config.yaml" for trial in complete), None)
    return {"file": SWEEP, "text": comparison.sweep_yaml, "config": config, "packed": packed}


SECTIONS = (
    Section("scores", "Scores", scores, "No trial is complete, so there is nothing to compare."),
    Section(
        "curves",
        "Scores by value",
        curves_by_value,
        "There is no curve to draw. A curve needs complete trials with two or more values of the first parameter of "
        "the table's columns (table.columns), and these values must be numbers.",
    ),
    Section("learning", "Learning curves", learning_curves, "No complete trial has scores by round (metrics.jsonl)."),
    Section("costs", "Traffic and time", costs, "No complete trial reports its bytes or its training time."),
    Section("failures", "What failed and why", failures, "No trial has failed."),
    Section("trials", "Trials", trials, "The sweep has no trials."),
    Section("details", "Reproduce", details, ""),
)

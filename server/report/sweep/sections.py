"""Contexts of the sections of a sweep's report but its curves. None: there is nothing to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.analysis.rendering import Sheet, TimeColumn, known, metric_title, score, sheets, time_column
from server.analysis.tables import ScoreTable, named
from server.analysis.trials import METRICS
from server.report.page import REPORT
from server.report.sweep.view import View, cells_of
from server.runs.formatting import percent
from server.sweep.record import LOG, SWEEP, TRIALS, State
from server.sweep.table import LOSS


def scores(view: View) -> list[Sheet] | None:
    """Return the tables of ``fedrecon table``: scores, differences, and costs."""
    return list(sheets(view.tables)) or None


@dataclass(frozen=True)
class Cost:
    """Means over the complete cells of one row; ``time`` is in seconds."""

    levels: list[str]
    name: str
    bytes: float | None
    time: float | None
    time_text: str


@dataclass(frozen=True)
class Costs:
    """Bytes and training time of each method, in one table per section of the sweep.

    ``most_bytes`` and ``most_time`` are the largest of all rows.
    """

    tables: list[tuple[str, list[str], list[Cost]]]
    time: TimeColumn
    most_bytes: float
    most_time: float


def costs(view: View) -> Costs | None:
    """Compare the bytes and the training time of the methods: means over the seeds."""
    time = time_column(view.trials)
    tables = [(named(grid.section), _axes(grid), _costs(grid, time)) for grid in view.sections]
    rows = [row for _, _, own in tables for row in own]
    most_bytes = max((row.bytes or 0.0 for row in rows), default=0.0)
    most_time = max((row.time or 0.0 for row in rows), default=0.0)
    return Costs(tables, time, most_bytes, most_time) if most_bytes or most_time else None


def _axes(grid: ScoreTable) -> list[str]:
    return [*grid.rows[0], *grid.columns[0]] or ["Method"]


def _costs(grid: ScoreTable, time: TimeColumn) -> list[Cost]:
    found = []
    for labels, cell in cells_of(grid):
        sent, worked = known(cell["tensor_bytes"]), known(cell[time.column])
        found.append(Cost(list(labels.values()) or ["all"], named(labels), sent, worked, time.written(worked)))
    return found


@dataclass(frozen=True)
class Failure:
    """A failed cell: its levels, its error, and its log (``href``: only if it can be linked)."""

    name: str
    error: str
    log: str
    href: str | None


def failures(view: View) -> list[Failure] | None:
    """List the cells that failed, each with its reason and the path of its log."""
    found = [
        Failure(
            named(view.sweep.labels(trial)),
            view.sweep.value(trial, "error") or "no reason was given",
            f"{TRIALS}/{trial}/{LOG}",
            view.href(view.sweep.directory_of(trial) / LOG),
        )
        for trial in view.having(State.FAILED)
    ]
    return found or None


@dataclass(frozen=True)
class TrialRow:
    """One cell of the sweep; ``scores`` and ``time`` as (text, value); ``report``: a link, if there is a report."""

    levels: list[str]
    state: str
    scores: list[tuple[str, float | None]]
    time: tuple[str, float | None]
    report: str | None


def trials(view: View) -> dict[str, Any] | None:
    """List every cell: its levels, its state, its scores, and its own report."""
    if not view.sweep.names:
        return None
    metrics, time = list(dict.fromkeys(grid.metric for grid in view.tables)), time_column(view.trials)
    rows = []
    for trial in view.sweep.names:
        complete = view.sweep.value(trial, "status") == State.COMPLETE
        own = [known(view.sweep.value(trial, METRICS + metric)) if complete else None for metric in metrics]
        texts = [_score(value, metric) for value, metric in zip(own, metrics, strict=True)]
        worked = known(view.sweep.value(trial, time.column)) if complete else None
        rows.append(
            TrialRow(
                list(view.sweep.labels(trial).values()) or ["all"],
                view.sweep.value(trial, "status"),
                list(zip(texts, own, strict=True)),
                (time.written(worked), worked),
                view.href(view.sweep.directory_of(trial) / REPORT),
            )
        )
    titles = [f"Test {metric_title(metric)}" for metric in metrics]
    return {"axes": list(view.sweep.parameters), "titles": titles, "time": time.head, "rows": rows}


def _score(value: float | None, metric: str) -> str:
    return score(value, metric) if metric == LOSS and value is not None else percent(value)


def details(view: View) -> dict[str, Any]:
    """Return ``sweep.yaml`` and the config of a complete cell, if there is one, to repeat."""
    complete = [] if view.sweep.packed else view.having(State.COMPLETE)
    config = f"{TRIALS}/{complete[0]}/config.yaml" if complete else None
    return {"file": SWEEP, "text": view.text, "config": config}

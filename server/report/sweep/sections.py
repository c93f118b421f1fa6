"""Contexts of the sections of a sweep's report except its curves. None: there is nothing to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedrecon_core.metrics.base import is_percentage, metric_title
from server.analysis.rendering import Sheet, TimeColumn, known, score, sheets, time_column
from server.analysis.tables import named
from server.analysis.trials import METRICS
from server.report.page import REPORT
from server.report.sweep.view import View
from server.runs.formatting import percent
from server.sweep.record import LOG, SWEEP, TRIALS, State


def scores(view: View) -> list[Sheet] | None:
    """Return the tables of ``fedrecon table``: scores, differences, and costs."""
    return list(sheets(view.tables)) or None


@dataclass(frozen=True)
class Cost:
    """Means over the complete trials of one row; ``time`` is in seconds."""

    values: list[str]
    name: str
    bytes: float | None
    time: float | None


@dataclass(frozen=True)
class Costs:
    """Bytes and training time of each method: per section of the sweep its title, parameters and rows.

    ``most_bytes`` and ``most_time`` are the largest of all rows.
    """

    tables: list[tuple[str, list[str], list[Cost]]]
    time: TimeColumn
    most_bytes: float
    most_time: float


def costs(view: View) -> Costs | None:
    """Compare the bytes and the training time of the methods: means over the seeds."""
    time, tables = time_column(view.trials), []
    for table in view.sections:
        rows = []
        for row, column in table.keys:
            labels, cell = {**table.rows[row], **table.columns[column]}, table.cell((row, column))
            values = known(cell["tensor_bytes"]), known(cell[time.column])
            rows.append(Cost(list(labels.values()) or ["all"], named(labels), *values))
        tables.append((named(table.section), [*table.rows[0], *table.columns[0]] or ["Method"], rows))
    every = [row for _, _, rows in tables for row in rows]
    most_bytes = max((row.bytes or 0.0 for row in every), default=0.0)
    most_time = max((row.time or 0.0 for row in every), default=0.0)
    return Costs(tables, time, most_bytes, most_time) if most_bytes or most_time else None


@dataclass(frozen=True)
class Failure:
    """A failed trial: its values, its error, and its log (``href``: only if it can be linked)."""

    name: str
    error: str
    log: str
    href: str | None


def failures(view: View) -> list[Failure] | None:
    """List the trials that failed, each with its reason and the path of its log."""
    sweep = view.sweep
    found = [
        Failure(
            named(sweep.labels(trial)),
            sweep.value(trial, "error") or "no reason was given",
            f"{TRIALS}/{trial}/{LOG}",
            view.href(sweep.directory_of(trial) / LOG),
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


def trials(view: View) -> dict[str, Any] | None:
    """List every trial: its values, its state, its scores, and its own report."""
    sweep, time = view.sweep, time_column(view.trials)
    if sweep.trials.empty:
        return None
    metrics, rows = list(dict.fromkeys(table.metric for table in view.tables)), []
    for trial in sweep.names:
        state = str(sweep.value(trial, "status"))
        complete = state == State.COMPLETE
        own = [known(sweep.value(trial, METRICS + metric)) if complete else None for metric in metrics]
        texts = [_score(value, metric) for value, metric in zip(own, metrics, strict=True)]
        rows.append(
            TrialRow(
                list(sweep.labels(trial).values()) or ["all"],
                state,
                list(zip(texts, own, strict=True)),
                known(sweep.value(trial, time.column)) if complete else None,
                view.href(sweep.directory_of(trial) / REPORT),
            )
        )
    titles = [f"Test {metric_title(metric)}" for metric in metrics]
    return {"parameters": list(sweep.parameters), "titles": titles, "time": time, "rows": rows}


def _score(value: float | None, metric: str) -> str:
    return percent(value) if is_percentage(metric) or value is None else score(value, metric)


def details(view: View) -> dict[str, Any]:
    """Return ``sweep.yaml`` and the config of a complete trial, if there is one, to repeat."""
    packed = view.sweep.packed
    complete = () if packed else map(str, view.sweep.complete.index)
    config = next((f"{TRIALS}/{trial}/config.yaml" for trial in complete), None)
    return {"file": SWEEP, "text": view.text, "config": config, "packed": packed}

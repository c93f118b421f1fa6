"""Contexts of the sections of a sweep's report but its curves. None: there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.analysis.compute_cost import Spent, spent
from server.analysis.grids import Grid
from server.analysis.layout import named
from server.analysis.results import mean
from server.analysis.tables import Sheet, metric_title, score, sheets
from server.report.page import REPORT
from server.report.sweep.view import View, entries_of
from server.runs.formatting import percent
from server.sweep.record import LOG, SWEEP, TRIALS, State, ending
from server.sweep.table import LOSS


def scores(view: View) -> list[Sheet] | None:
    """Return the tables of ``fedrecon table``: scores, differences, and costs."""
    return list(sheets(view.grids)) or None


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
    time: Spent
    most_bytes: float
    most_time: float


def costs(view: View) -> Costs | None:
    """Compare the bytes and the training time of the methods: means over the seeds."""
    time = spent(view.results)
    tables = [(named(grid.section), _axes(grid), _costs(grid, time)) for grid in view.sections]
    rows = [row for _, _, own in tables for row in own]
    most_bytes = max((row.bytes or 0.0 for row in rows), default=0.0)
    most_time = max((row.time or 0.0 for row in rows), default=0.0)
    return Costs(tables, time, most_bytes, most_time) if most_bytes or most_time else None


def _axes(grid: Grid) -> list[str]:
    return [*grid.rows[0], *grid.columns[0]] or ["Method"]


def _costs(grid: Grid, time: Spent) -> list[Cost]:
    found = []
    for labels, entry in entries_of(grid):
        sent, worked = mean(entry.results, lambda result: result.bytes), mean(entry.results, time.of)
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
            named(trial.labels),
            str(ending(trial.directory).get("error") or "no reason was given"),
            f"{TRIALS}/{trial.directory.name}/{LOG}",
            view.href(trial.directory / LOG),
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
    if not view.record.trials:
        return None
    metrics = list(dict.fromkeys(grid.metric for grid in view.grids))
    found, time = {result.directory: result for result in view.results}, spent(view.results)
    rows = []
    for trial in view.record.trials:
        result = found.get(trial.directory)
        own = [result.scores.get(metric) if result else None for metric in metrics]
        texts = [_score(value, metric) for value, metric in zip(own, metrics, strict=True)]
        worked = time.of(result) if result else None
        rows.append(
            TrialRow(
                list(trial.labels.values()) or ["all"],
                trial.status,
                list(zip(texts, own, strict=True)),
                (time.written(worked), worked),
                view.href(trial.directory / REPORT),
            )
        )
    titles = [f"Test {metric_title(metric)}" for metric in metrics]
    return {"axes": list(view.record.parameters), "titles": titles, "time": time.head, "rows": rows}


def _score(value: float | None, metric: str) -> str:
    return score(value, metric) if metric == LOSS and value is not None else percent(value)


def details(view: View) -> dict[str, Any]:
    """Return ``sweep.yaml`` and the config of a complete cell, if there is one, to repeat."""
    first: Sequence[str] = [f"{TRIALS}/{result.directory.name}/config.yaml" for result in view.results[:1]]
    return {"file": SWEEP, "text": view.text, "config": next(iter(first), None)}

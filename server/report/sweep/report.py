"""The report of a sweep, finished or not: the comparison of its complete trials, and the state of the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.analysis.rendering import known
from server.analysis.trials import total
from server.report.page import Section, Tile, render, write_page
from server.report.sweep import curves, sections
from server.report.sweep.view import View, read_view
from server.runs.formatting import count, seconds, size
from server.sweep.parameters import SEED
from server.sweep.record import State

MEANINGS = {
    State.COMPLETE: "ran to the end",
    State.FAILED: "ended with an error",
    State.UNFINISHED: "not finished",
    State.MISSING: "not started",
}
BADGES = {"complete": "completed", "failed trials": "failed", "unfinished": "unfinished"}
"""State of the sweep -> CSS class."""


def write_sweep_report(directory: Path) -> Path:
    """Write ``report.html`` into the directory of a sweep, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is not the directory of a sweep.
        RunError: the page cannot be written.
    """
    return write_page(directory, render_sweep(read_view(directory)))


def render_sweep(view: View) -> str:
    """Return the whole page as HTML."""
    top = {"name": view.sweep.name, "closing": "Written by FedRecon.", "sweep": overview(view)}
    return render("sweep.html.md", view, SECTIONS, tiles=list(tiles(view)), **top)


def overview(view: View) -> dict[str, Any]:
    """Collect the context of heading and notices: parameters with their values, numbers of trials, and remarks."""
    complete, failed = view.count(State.COMPLETE), view.count(State.FAILED)
    trials, parameters = len(view.sweep.trials), view.sweep.parameters
    state = "failed trials" if failed else "complete" if complete == trials else "unfinished"
    return {
        "state": state,
        "badge": BADGES[state],
        "trials": trials,
        "parameters": {name: values for name, values in parameters.items() if name != SEED},
        "seeds": len(parameters.get(SEED, ())),
        "failed": failed,
        "left_out": trials - complete if complete else 0,
        "remarks": view.remarks,
        "fault": view.fault,
    }


def tiles(view: View) -> Iterator[Tile]:
    """Yield the number of trials in each state, and the total cost of the complete ones."""
    for state, meaning in MEANINGS.items():
        whole = f" of {len(view.sweep.trials)}" if state is State.COMPLETE else ""
        yield Tile(state.capitalize(), f"{count(view.count(state))}{whole}", meaning)
    wall, sent = (total([known(value) for value in view.trials[name]]) for name in ("wall_seconds", "bytes"))
    yield Tile("Total time", seconds(wall), "of the complete trials, one after the other")
    yield Tile("Tensor bytes", size(sent), "both ways, all complete trials")


SECTIONS = (
    Section("scores", "Scores", sections.scores, "No trial is complete, so there is nothing to compare."),
    Section(
        "curves",
        "Scores by value",
        curves.by_value,
        "There is no curve to draw. A curve needs complete trials with two or more values of the first parameter of "
        "the table's columns (table.columns), and these values must be numbers.",
    ),
    Section(
        "learning",
        "Learning curves",
        curves.learning,
        "No complete trial has scores by round (metrics.jsonl).",
    ),
    Section("costs", "Traffic and time", sections.costs, "No complete trial reports its bytes or its training time."),
    Section("failures", "What failed and why", sections.failures, "No trial has failed."),
    Section("trials", "Trials", sections.trials, "The sweep has no trials."),
    Section("details", "Reproduce", sections.details, ""),
)

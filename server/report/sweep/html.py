"""``report.html`` of a sweep, whole or not: what its complete cells add up to, and how the others stand."""

from __future__ import annotations

from pathlib import Path

from server.report.page import Section, document, write_page
from server.report.sweep import curves, overview, sections
from server.report.sweep.view import View, read_view


def write_sweep_report(directory: Path) -> Path:
    """Write ``report.html`` into the directory of a sweep, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is no directory of a sweep; ``RunError`` where the page cannot be written.
    """
    return write_page(directory, render(read_view(directory)))


def render(view: View) -> str:
    """The whole page."""
    top = [overview.heading(view), overview.notices(view), overview.tiles(view)]
    return document(view, view.record.name, top, SECTIONS, "Written by FedRecon.")


SECTIONS = (
    Section("scores", "Scores", sections.scores, "No cell is complete: there is nothing to compare."),
    Section(
        "curves",
        "Scores by level",
        curves.by_value,
        "There is no curve to draw: that takes complete cells at two levels at least of a first axis of the table's "
        "columns, and numbers as its levels (table.columns).",
    ),
    Section(
        "learning",
        "Learning curves",
        curves.learning,
        "No complete cell has the scores of its rounds (metrics.jsonl).",
    ),
    Section("costs", "Traffic and time", sections.costs, "No complete cell tells its bytes or its training time."),
    Section("failures", "What failed and why", sections.failures, "No cell has failed."),
    Section("cells", "Cells", sections.trials, "The sweep has no cells."),
    Section("details", "Reproduce", sections.details, ""),
)

"""The table that closes a run in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from fedrecon_core.metrics.base import is_percentage
from server.runs.formatting import DASH, bounded, count, decimal, percent, seconds, size
from server.runs.record import RunRecord, number
from server.runs.summary import Direction, best_round, final_scores, rounds_done, scores, status, traffic


def final_table(record: RunRecord) -> Table:
    """Test scores, best round, bytes and their saving against sending everything, seconds; a dash where unknown."""
    table = Table(title=f"{escape(record.name)}: {escape(status(record))}", show_header=False, title_justify="left")
    table.add_column("what", style="bold")
    table.add_column("value", justify="right")
    for what, value in _rows(record):
        table.add_row(what, value)
    return table


def _rows(record: RunRecord) -> Iterator[tuple[str, str]]:
    test = final_scores(record)
    for field, name in scores(record).items():
        title, value = name if name.isupper() else name[0].lower() + name[1:], number(test.get(field))
        text = bounded(value, number(test.get(f"{field}_error"))) if is_percentage(field) else decimal(value)
        yield f"Test {title}", text
    yield "Test loss", decimal(number(test.get("loss")))
    yield "Best round", f"{count(best_round(record))} of {rounds_done(record)}"
    yield "Downloaded by the sites", _sent(record, "down")
    yield "Uploaded by the sites", _sent(record, "up")
    yield "Training time", seconds(number(record.result.get("train_seconds")))
    yield "Processor time of it", seconds(number(record.result.get("train_processor_seconds")))
    yield "Whole time", seconds(number(record.result.get("wall_seconds")))


def _sent(record: RunRecord, direction: Direction) -> str:
    found = traffic(record, direction)
    if found.saving is None:
        return size(found.sent) if found.sent is not None else DASH
    return f"{size(found.sent)} ({percent(found.saving)} saved against sending everything)"

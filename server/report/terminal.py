"""The table with which a run ends in the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from fedrecon_core.metrics.base import is_percentage
from server.runs.formatting import bounded, count, decimal, percent, seconds, size
from server.runs.record import RunRecord, number
from server.runs.summary import best_round, final_scores, rounds_done, scores, status, traffic


def final_table(record: RunRecord) -> Table:
    """Summarise a run: test scores, best round, traffic and its saving, times. A dash stands for an unknown value."""
    table = Table(title=f"{escape(record.name)}: {escape(status(record))}", show_header=False, title_justify="left")
    table.add_column("name", style="bold")
    table.add_column("value", justify="right")
    test, result = final_scores(record), record.result
    for metric, title in scores(record).items():
        value, bound = number(test.get(metric)), number(test.get(f"{metric}_error"))
        lower = title if title.isupper() else title[0].lower() + title[1:]
        table.add_row(f"Test {lower}", bounded(value, bound) if is_percentage(metric) else decimal(value))
    table.add_row("Test loss", decimal(number(test.get("loss"))))
    table.add_row("Best round", f"{count(best_round(record))} of {rounds_done(record)}")
    for name, found in (("Downloaded", traffic(record, "down")), ("Uploaded", traffic(record, "up"))):
        saving = "" if found.saving is None else f" ({percent(found.saving)} saved against sending everything)"
        table.add_row(f"{name} by the sites", f"{size(found.sent)}{saving}")
    table.add_row("Training time", seconds(number(result.get("train_seconds"))))
    table.add_row("Processor time of training", seconds(number(result.get("train_processor_seconds"))))
    table.add_row("Total time", seconds(number(result.get("wall_seconds"))))
    return table

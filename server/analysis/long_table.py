"""Grids as one long CSV: a line for each metric and field, with every number as it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from server.analysis.grids import Entry, Grid
from server.analysis.results import Result, mean

_COSTS: dict[str, Callable[[Result], float | None]] = {
    "missing_train": lambda result: result.missing.get("train"),
    "missing_validation": lambda result: result.missing.get("validation"),
    "missing_test": lambda result: result.missing.get("test"),
    "tensor_bytes": lambda result: result.bytes,
    "parameters": lambda result: result.parameters,
    "train_seconds": lambda result: result.train_seconds,
    "train_processor_seconds": lambda result: result.processor_seconds,
    "bytes_per_site": lambda result: result.bytes / result.sites if result.bytes is not None and result.sites else None,
    "sites": lambda result: result.sites,
    "sites_out": lambda result: result.sites_out,
    "best_round": lambda result: result.best_round,
    "rounds": lambda result: result.rounds,
}
COLUMNS = (
    *("metric", "seeds", "mean", "deviation", "place", "published", "published_deviation", "published_source"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", *_COSTS, "protocol_faults"),
)
"""Columns that are no axis; an axis of such a name stands as ``axis_<name>``."""
_PLACES = {1: "best", 2: "second"}


def render(grids: Sequence[Grid]) -> str:
    """The lines; what is not known is empty."""
    lines = [_line(grid, entry) for grid in grids for _, entry in sorted(grid.entries.items())]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(grid: Grid, entry: Entry) -> dict[str, Any]:
    published, difference = entry.published, entry.difference
    interval = difference and difference.interval
    return {
        **{
            f"axis_{parameter}" if parameter in COLUMNS else parameter: value
            for parameter, value in entry.labels.items()
        },
        "metric": grid.metric,
        "seeds": len(entry.scores),
        "mean": entry.mean,
        "deviation": entry.deviation,
        "place": _PLACES.get(entry.place),
        "published": published and published.value,
        "published_deviation": published and published.deviation,
        "published_source": published and published.source,
        "difference": difference and difference.mean,
        "difference_low": interval and interval.low,
        "difference_high": interval and interval.high,
        "p": difference and difference.p,
        "p_holm": difference and difference.adjusted,
        **{name: mean(entry.results, number_of) for name, number_of in _COSTS.items()},
        "protocol_faults": " ".join(dict.fromkeys(fault for result in entry.results for fault in result.faults)),
    }

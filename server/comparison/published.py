"""Values that others have published, as a CSV: what a table shows beside ours."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrecon_core.errors import DataError
from fedrecon_core.nearest import did_you_mean
from server.comparison.layout import Labels
from server.sweep.axes import SEED
from server.sweep.table import LOSS

VALUES = ("metric", "value", "deviation", "source")
"""Columns that are no axis: the metric, its value and standard deviation as papers print them (in per cent; a loss as
it is), and where it is printed. The last two may be left out."""


@dataclass(frozen=True)
class Published:
    """One published value, a share of one or a loss, for whatever has ``labels``."""

    labels: Labels
    metric: str
    value: float
    deviation: float | None = None
    source: str = ""
    printed: str = ""
    """The value as it is printed."""


def read_published(path: Path, axes: Iterable[str]) -> list[Published]:
    """The values in the CSV at ``path``, for a sweep with ``axes``. A level that the sweep does not have is no fault: a
    paper's whole table may stand beside a part of it.

    Raises:
        DataError: there is no such file, or it does not fit the axes.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins a file with a byte order mark
            reader = csv.DictReader(file, strict=True)
            _check_header(path, reader.fieldnames or (), tuple(axes))
            found = [_read(path, reader.line_num, row) for row in reader]
    except OSError as error:
        told = "`--set reference=null` shows the results without them"
        raise DataError(f"{path}: the published values cannot be read: {error.strerror}; {told}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no CSV: {error}") from None
    _refuse_twice(path, found)
    return found


def _refuse_twice(path: Path, found: Sequence[Published]) -> None:
    seen: list[tuple[Labels, str]] = []
    for value in found:
        key = (value.labels, value.metric)
        if key in seen:
            named = ", ".join(value.labels.values()) or "every field"
            raise DataError(f"{path}: expected one value of {value.metric} for {named}, found two")
        seen.append(key)


def find(published: Sequence[Published], labels: Labels, metric: str) -> Published | None:
    """The value that stands for the field with ``labels``, if there is one."""
    for one in published:
        if one.metric == metric and all(labels.get(axis) == level for axis, level in one.labels.items()):
            return one
    return None


def unknown_names(
    published: Sequence[Published], axes: Mapping[str, list[str]], metrics: Iterable[str]
) -> Iterator[str]:
    """The levels and metrics of ``published`` that the sweep does not have, each with the nearest that it has; those
    with one first: they may be slips, where the others may be the rest of a paper's table."""
    known = {**axes, "metric": list(metrics)}
    named = dict.fromkeys(pair for one in published for pair in [*one.labels.items(), ("metric", one.metric)])
    hints = {pair: did_you_mean(pair[1], known[pair[0]]) for pair in named if pair[1] not in known[pair[0]]}
    for (what, name), hint in sorted(hints.items(), key=lambda item: not item[1]):
        yield f"{what} '{name}'{f' ({hint})' if hint else ''}"


def _check_header(path: Path, header: Sequence[str], axes: Sequence[str]) -> None:
    lacking = [name for name in VALUES[:2] if name not in header]
    if lacking:
        raise DataError(f"{path}: expected the columns {' and '.join(VALUES[:2])}, found no {' and no '.join(lacking)}")
    ours = [axis for axis in axes if axis != SEED]  # what is published is a mean over seeds, as fields are
    for name in header:
        if name not in (*ours, *VALUES):
            known = f"axes of the sweep ({', '.join(ours)}) and {', '.join(VALUES)}"
            told = f"{path}: expected {known} as columns, found '{name}'. {did_you_mean(name, (*ours, *VALUES))}"
            raise DataError(told.rstrip())


def _read(path: Path, line: int, row: dict[str, str]) -> Published:
    """A row; an axis of which it says nothing is left open."""
    if None in row or None in row.values():
        raise DataError(f"{path}, line {line}: expected as many fields as the header has, found others")
    unit = 1 if row["metric"] == LOSS else 100
    value, deviation = _number(path, line, row["value"]) / unit, row.get("deviation")
    labels = {axis: level for axis, level in row.items() if axis not in VALUES and level}
    spread = _number(path, line, deviation) / unit if deviation else None
    return Published(labels, row["metric"], value, spread, row.get("source", ""), row["value"].strip())


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}, line {line}: expected a number, found '{text}'")
    return value

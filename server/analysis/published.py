"""Values that others have published, as a CSV: what a table shows beside ours."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from fedrecon_core.errors import DataError, did_you_mean
from fedrecon_core.metrics.base import is_percentage
from server.sweep.parameters import SEED, title_of

Labels = Mapping[str, str]
"""Parameter -> value."""
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
    line: int = 0
    """Where it ends in its file."""

    def names(self, labels: Labels) -> bool:
        """Whether it is for a field with ``labels``."""
        return all(labels.get(parameter) == value for parameter, value in self.labels.items())


def read_published(path: Path, parameters: Mapping[str, Sequence[str]]) -> list[Published]:
    """The values in the CSV at ``path``, for a sweep with ``axes`` and their levels. A level that the sweep does not
    have is no fault: a paper's whole table may stand beside a part of it.

    Raises:
        DataError: there is no such file, it does not fit the axes, or two of its values are for the same field.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins a file with a byte order mark
            reader = csv.DictReader(file, strict=True)
            _check_header(path, reader.fieldnames or (), tuple(parameters))
            found = [_read(path, reader.line_num, row) for row in reader]
    except OSError as error:
        told = "`--set reference=null` shows the results without them"
        raise DataError(f"{path}: the published values cannot be read: {error.strerror}; {told}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no CSV: {error}") from None
    _refuse_twice(path, found)
    _refuse_ties(path, found, parameters)
    return found


def _refuse_twice(path: Path, found: Sequence[Published]) -> None:
    seen: list[tuple[Labels, str]] = []
    for value in found:
        key = (value.labels, value.metric)
        if key in seen:
            named = ", ".join(value.labels.values()) or "every field"
            raise DataError(f"{path}: expected one value of {value.metric} for {named}, found two")
        seen.append(key)


def _refuse_ties(path: Path, found: Sequence[Published], parameters: Mapping[str, Sequence[str]]) -> None:
    """Of two values that name equally many axes neither is the one for a field of both, unless a third names more."""
    for one, other in combinations(found, 2):
        both = {**one.labels, **other.labels}
        if one.metric != other.metric or len(one.labels) != len(other.labels) or not one.names(both):
            continue
        for labels in _fields(both, found, parameters):
            nearest = find(found, labels, one.metric)
            if nearest and len(nearest.labels) == len(one.labels):
                told = f"both are the {one.metric} of {title_of(labels)}, and neither names more axes than the other"
                raise DataError(f"{path}, lines {one.line} and {other.line}: {told}; a line that does would decide")


def _fields(
    labels: Labels, published: Iterable[Published], parameters: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, str]]:
    """The fields with ``labels``, as far as published values tell them apart."""
    named = [parameter for parameter in parameters if any(parameter in one.labels for one in published)]
    values = [
        [value for value in parameters[parameter] if labels.get(parameter, value) == value] for parameter in named
    ]
    return (dict(zip(named, some, strict=True)) for some in product(*values))


def find(published: Iterable[Published], labels: Labels, metric: str) -> Published | None:
    """The value that stands for the field with ``labels``, if there is one: of several the one that names most axes."""
    ours = [one for one in published if one.metric == metric and one.names(labels)]
    return max(ours, key=lambda one: len(one.labels), default=None)


def unknown_names(
    published: Sequence[Published], parameters: Mapping[str, list[str]], metrics: Iterable[str]
) -> Iterator[str]:
    """The levels and metrics of ``published`` that the sweep does not have, each with the nearest that it has; those
    with one first: they may be slips, where the others may be the rest of a paper's table."""
    known = {**parameters, "metric": list(metrics)}
    named = dict.fromkeys(pair for one in published for pair in [*one.labels.items(), ("metric", one.metric)])
    hints = {pair: did_you_mean(pair[1], known[pair[0]]) for pair in named if pair[1] not in known[pair[0]]}
    for (what, name), hint in sorted(hints.items(), key=lambda item: not item[1]):
        yield f"{what} '{name}'{f' ({hint})' if hint else ''}"


def _check_header(path: Path, header: Sequence[str], parameters: Sequence[str]) -> None:
    lacking = [name for name in VALUES[:2] if name not in header]
    if lacking:
        raise DataError(f"{path}: expected the columns {' and '.join(VALUES[:2])}, found no {' and no '.join(lacking)}")
    ours = [
        parameter for parameter in parameters if parameter != SEED
    ]  # what is published is a mean over seeds, as fields are
    for name in header:
        if name not in (*ours, *VALUES):
            known = f"axes of the sweep ({', '.join(ours)}) and {', '.join(VALUES)}"
            told = f"{path}: expected {known} as columns, found '{name}'. {did_you_mean(name, (*ours, *VALUES))}"
            raise DataError(told.rstrip())


def _read(path: Path, line: int, row: dict[str, str]) -> Published:
    """A row; an axis of which it says nothing is left open."""
    if None in row or None in row.values():
        raise DataError(f"{path}, line {line}: expected as many fields as the header has, found others")
    unit = 100 if is_percentage(row["metric"]) else 1
    mean, deviation = _number(path, line, row["value"]) / unit, row.get("deviation")
    labels = {parameter: value for parameter, value in row.items() if parameter not in VALUES and value}
    spread = _number(path, line, deviation) / unit if deviation else None
    return Published(labels, row["metric"], mean, spread, row.get("source", ""), row["value"].strip(), line)


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}, line {line}: expected a number, found '{text}'")
    return value

"""Published values, read from a CSV file, for comparison with the results of a sweep in tables and figures."""

from __future__ import annotations

import csv
import math
from collections import Counter
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
"""The columns that are not parameters: the metric, its value and standard deviation as they are printed (in percent,
except for metrics that are not percentages), and where they are printed. The last two are optional."""


@dataclass(frozen=True)
class Published:
    """One published value of a metric (as a fraction, not in percent) for all results with the parameter values
    ``labels``. ``printed`` is the value as text, ``line`` the number of its last line in the file."""

    labels: Labels
    metric: str
    value: float
    deviation: float | None = None
    source: str = ""
    printed: str = ""
    line: int = 0

    def matches(self, labels: Labels) -> bool:
        """Whether the value is for results with ``labels``."""
        return self.labels.items() <= labels.items()


def read_published(path: Path, parameters: Mapping[str, Sequence[str]]) -> list[Published]:
    """Read the CSV file ``path`` for a sweep with ``parameters`` (name -> values). Values of parameters that the sweep
    does not have are accepted: the file may contain the whole table of a paper.

    Raises:
        DataError: the file cannot be read, it does not fit the parameters, or two of its values are for the same cell.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel writes a byte order mark
            reader = csv.DictReader(file, strict=True)
            _check_header(path, reader.fieldnames or (), [name for name in parameters if name != SEED])
            found = [_parse_row(f"{path}, line {reader.line_num}", reader.line_num, row) for row in reader]
    except OSError as error:
        advice = "`--set reference=null` shows the results without them"
        raise DataError(f"{path}: the published values cannot be read: {error.strerror}; {advice}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a valid CSV file: {error}") from None
    _check_unique(path, found, parameters)
    return found


def _check_header(path: Path, header: Sequence[str], parameters: Sequence[str]) -> None:
    """Check the columns. The seed is not one of them, because published values are means over seeds."""
    if lacking := [name for name in VALUES[:2] if name not in header]:
        raise DataError(f"{path}: expected the columns {' and '.join(VALUES[:2])}, found no {' and no '.join(lacking)}")
    known = (*parameters, *VALUES)
    if unknown := [name for name in header if name not in known]:
        expected = f"axes of the sweep ({', '.join(parameters)}) and {', '.join(VALUES)}"
        hint = did_you_mean(unknown[0], known)
        raise DataError(f"{path}: expected {expected} as columns, found '{unknown[0]}'. {hint}".rstrip())


def _parse_row(place: str, line: int, row: Mapping[str, str]) -> Published:
    """Parse one row. A parameter that the row leaves empty matches all of its values."""
    if None in row or None in row.values():
        raise DataError(f"{place}: expected as many fields as the header has, found more or fewer")
    unit = 100 if is_percentage(row["metric"]) else 1

    def number(name: str) -> float:
        try:
            found = float(row[name])
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise DataError(f"{place}: expected a number, found '{row[name]}'")
        return found / unit

    return Published(
        labels={name: value for name, value in row.items() if name not in VALUES and value},
        metric=row["metric"],
        value=number("value"),
        deviation=number("deviation") if row.get("deviation") else None,
        source=row.get("source", ""),
        printed=row["value"].strip(),
        line=line,
    )


def _check_unique(path: Path, found: Sequence[Published], parameters: Mapping[str, Sequence[str]]) -> None:
    """Raise ``DataError`` if two values apply to the same cell and neither is more specific.

    A value that names more parameters is more specific. Two values that name equally many are accepted if a third, more
    specific one applies to every cell to which both apply.
    """
    counts = Counter((tuple(one.labels.items()), one.metric) for one in found)
    for (pairs, metric), count in counts.items():
        if count > 1:
            names = ", ".join(value for _, value in pairs) or "every field"
            raise DataError(f"{path}: expected one value of {metric} for {names}, found two")
    named = [name for name in parameters if any(name in one.labels for one in found)]
    for one, other in combinations(found, 2):
        both = {**one.labels, **other.labels}
        if one.metric != other.metric or len(one.labels) != len(other.labels) or not one.matches(both):
            continue
        values = [[value for value in parameters[name] if both.get(name, value) == value] for name in named]
        for labels in (dict(zip(named, some, strict=True)) for some in product(*values)):
            nearest = find(found, labels, one.metric)
            if nearest and len(nearest.labels) == len(one.labels):
                fault = f"both are the {one.metric} of {title_of(labels)}, and neither names more axes than the other"
                raise DataError(
                    f"{path}, lines {one.line} and {other.line}: {fault}; add a line that names the axes of both"
                )


def find(published: Iterable[Published], labels: Labels, metric: str) -> Published | None:
    """Return the published value of ``metric`` for ``labels``; if several apply, the one that names most parameters."""
    matching = [one for one in published if one.metric == metric and one.matches(labels)]
    return max(matching, key=lambda one: len(one.labels), default=None)


def unknown_names(
    published: Sequence[Published], parameters: Mapping[str, list[str]], metrics: Iterable[str]
) -> Iterator[str]:
    """Yield the values and metrics in ``published`` that the sweep does not have, with the most similar known name.

    Names that have a similar one come first, because they may be misspelled; others may be other rows of a paper's
    table.
    """
    known = {**parameters, "metric": list(metrics)}
    named = dict.fromkeys(pair for one in published for pair in [*one.labels.items(), ("metric", one.metric)])
    hints = {pair: did_you_mean(pair[1], known[pair[0]]) for pair in named if pair[1] not in known[pair[0]]}
    for (parameter, name), hint in sorted(hints.items(), key=lambda item: not item[1]):
        yield f"{parameter} '{name}'{f' ({hint})' if hint else ''}"

"""Which axes of a sweep are rows, which are columns, and which tell one table from the next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

from server.sweep.choices import fits
from server.sweep.parameters import SEED
from server.sweep.table import Table

Labels = Mapping[str, str]
"""Axis -> level."""


def named(labels: Labels) -> str:
    """``alpha 0.1, strategy fedavg``."""
    return ", ".join(f"{parameter} {value}" for parameter, value in labels.items())


def as_number(value: str) -> float | None:
    """``0.5`` and ``50%`` are 0.5; what is no finite number is None."""
    text, unit = (value[:-1], 100) if value.endswith("%") else (value, 1)
    try:
        number = float(text) / unit
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Layout:
    """A table section with all that it leaves open decided. Each combination of levels of the axes in ``sections`` has
    tables of its own. ``axes`` maps every axis to its levels, in their order."""

    parameters: Mapping[str, list[str]]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    sections: tuple[str, ...]
    metrics: tuple[str, ...]
    baseline: Labels = field(default_factory=dict)
    bounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def contest(self) -> tuple[str, ...]:
        """The axes whose levels are rivals, wherever they stand: those of the baseline, else the rows. Without a
        baseline numbers are no rivals: a missing rate is what others are compared at."""
        return tuple(self.baseline) or tuple(parameter for parameter in self.rows if not self.numeric(parameter))

    def numeric(self, parameter: str) -> bool:
        """Whether all levels of ``axis`` are numbers."""
        return None not in map(as_number, self.parameters[parameter])

    def shared(self, labels: Labels) -> Labels:
        """What rivals have in common: the levels of all axes but those of the contest."""
        return {parameter: value for parameter, value in labels.items() if parameter not in self.contest}

    def family(self, labels: Labels) -> tuple[str, ...]:
        """The same without the axes."""
        return tuple(self.shared(labels).values())

    def combinations(self, parameters: Iterable[str]) -> list[Labels]:
        """Every combination of the levels of ``axes``, in their order; of no axes the one empty one."""
        named = tuple(parameters)
        return [
            dict(zip(named, values, strict=True))
            for values in product(*(self.parameters[parameter] for parameter in named))
        ]

    def contends(self, labels: Labels) -> bool:
        """Whether what has ``labels`` is ranked among the others: a bound is not."""
        return not any(fits(labels, {parameter: values}) for parameter, values in self.bounds.items())


def laid_out(table: Table, parameters: Mapping[str, list[str]], metrics: tuple[str, ...]) -> Layout:
    """``table`` of a sweep with ``axes``; ``metrics`` where it names none. Without rows the baseline's axes are taken,
    or the first that is free, then without columns the next."""
    free = [parameter for parameter in parameters if parameter not in (SEED, *table.rows, *table.columns)]
    rows = table.rows or tuple(parameter for parameter in table.baseline if parameter in free) or tuple(free[:1])
    columns = table.columns or tuple(parameter for parameter in free if parameter not in rows)[:1]
    sections = tuple(parameter for parameter in free if parameter not in (*rows, *columns))
    return Layout(
        parameters,
        rows,
        columns,
        sections,
        tuple(dict.fromkeys(table.metrics or metrics)),
        table.baseline,
        table.bounds,
    )

"""A description as tables that stay readable at 80 columns and with a hundred sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedrecon_core.types import SPLITS
from server.report.dataset.summary import View, histogram
from server.runs.formatting import DASH, count, percent

MOST, ENDS = 12, 4
"""Longer tables show so many rows of each end, and quantiles."""
ACROSS = 5
"""Modalities beside each other."""
BINS, BAR = 8, 40
QUANTILES = {"lowest": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "highest": 1.0}


@dataclass(frozen=True)
class Grid:
    """``values`` [rows, columns] under their names; NaN is shown as a dash. ``total`` closes with a row of sums."""

    title: str
    what: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: NDArray[Any]
    shown: Callable[[float], str] = count
    total: bool = False

    def shown_whole(self) -> Group:
        """The grid under its title; of many rows the first and the last, and quantiles of all."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(self.what)
        for name in self.columns:
            table.add_column(escape(name), justify="right")
        many = len(self.rows) > MOST
        for place in [*range(ENDS), *range(len(self.rows) - ENDS, len(self.rows))] if many else range(len(self.rows)):
            last = place == len(self.rows) - 1 or (many and place == ENDS - 1)
            table.add_row(escape(self.rows[place]), *self._cells(self.values[place]), end_section=last)
        for name, share in QUANTILES.items() if many else ():
            table.add_row(f"{name} of {len(self.rows)}", *self._cells(_quantile(self.values, share)))
        if self.total:
            table.add_row("all", *self._cells(self.values.sum(axis=0)), style="bold")
        return Group(Text(self.title, style="bold"), table)

    def _cells(self, values: NDArray[np.float64]) -> list[str]:
        return [DASH if np.isnan(value) else self.shown(float(value)) for value in values]


def _quantile(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([np.quantile(column, share) if len(column) else np.nan for column in known])


def show(view: View, console: Console) -> None:
    """Print all tables of ``view``."""
    counts = ", ".join(f"{count(view.patterns[split].samples)} {split}" for split in SPLITS)
    places = f", {len(view.sites)} sites" if view.sites else ""
    about = f"{view.spec.name}: {counts} samples, {len(view.spec.classes)} classes ({view.spec.target}){places}"
    console.print(about, highlight=False, markup=False, style="bold")
    for fault in view.faults:
        console.print(f"fault of the protocol: {fault}", highlight=False, markup=False, style="yellow")
    for note in view.notes:
        console.print(note, highlight=False, markup=False)
    for table in tables(view):
        console.print(table)


def tables(view: View) -> Iterator[Group]:
    """Counts by class, by site and by combination of modalities, missing rates, lengths."""
    patterns = [view.patterns[split] for split in SPLITS]
    classes = np.stack([pattern.of_class for pattern in patterns], axis=1)
    several = view.spec.target == "multilabel"
    yield Grid("Samples by class", "class", view.spec.classes, SPLITS, classes, total=not several).shown_whole()
    if view.sites:
        sites = np.stack([view.patterns[split].of_site for split in view.at_sites], axis=1)
        yield Grid("Samples by site", "site", view.sites, view.at_sites, sites, total=True).shown_whole()
    rates = np.stack([view.missing(split) for split in SPLITS], axis=1)
    yield Grid("Samples that lack each modality", "modality", _shapes(view), SPLITS, rates, _percent).shown_whole()
    yield _combinations(view).shown_whole()
    if (rates[:, 0] > 0).any():
        yield from _wide("Training samples that lack a modality, by class", "class", view.spec.classes, view)
        yield from _wide("Training samples that lack a modality, by site", "site", view.sites, view)
    for name in view.lengths:
        yield _lengths(view, name)


def _percent(share: float) -> str:
    return percent(share, 1)


def _shapes(view: View) -> list[str]:
    return [f"{m.name} {m.kind} [{', '.join(map(str, m.shape))}]" for m in view.spec.modalities]


def _combinations(view: View) -> Grid:
    total: dict[tuple[str, ...], NDArray[np.float64]] = {}
    for column, split in enumerate(SPLITS):
        for names, number in view.patterns[split].combinations.items():
            total.setdefault(names, np.zeros(len(SPLITS)))[column] = number
    order = sorted(total, key=lambda names: -float(total[names].sum()))
    kept = order if len(order) <= MOST else order[: MOST - 1]
    rows, values = [" + ".join(names) or "nothing" for names in kept], [total[names] for names in kept]
    if rest := order[len(kept) :]:
        rows.append(f"{len(rest)} other combinations")
        values.append(np.sum([total[names] for names in rest], axis=0))
    return Grid("Samples by what they have", "modalities", rows, SPLITS, np.array(values), total=True)


def _wide(title: str, what: str, rows: Sequence[str], view: View) -> Iterator[Group]:
    """Rates by modality, so many beside each other that a table stays narrow."""
    rates = view.missing_by_class() if what == "class" else view.missing_by_site()
    for start in range(0, len(view.spec.names) if len(rows) else 0, ACROSS):
        places = slice(start, start + ACROSS)
        yield Grid(title, what, rows, view.spec.names[places], rates[:, places], _percent).shown_whole()


def _lengths(view: View, name: str) -> Group:
    lengths, longest = view.lengths[name], view.spec[name].shape[0]
    title = Text(f"Lengths of {name} (at most {longest} steps)", style="bold")
    if not len(lengths):
        return Group(title, Text("no sequences"))
    facts = {"min": lengths.min(), "median": np.median(lengths), "90%": np.quantile(lengths, 0.9), "max": lengths.max()}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("steps", justify="right")
    table.add_column("sequences", justify="right")
    table.add_column(", ".join(f"{what} {value:.0f}" for what, value in facts.items()))
    counts, borders = histogram(lengths, BINS)
    for number, low, above in zip(counts.tolist(), borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        bar = "#" * -(-number * BAR // max(int(counts.max()), 1))
        table.add_row(str(low) if above - low == 1 else f"{low} to {above - 1}", count(number), bar)
    return Group(title, table)

"""Tables of scores: the trials of a sweep grouped by the parameters in its rows and columns, ranked and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from fedrecon_core.metrics.base import higher_is_better
from server.analysis.bootstrap import holm
from server.analysis.differences import Differences
from server.analysis.predictions import PredictionFault, PredictionsError, merged
from server.analysis.published import Labels, Published, find
from server.analysis.trials import METRICS, MISSING, PARAMS, mean_of
from server.runs.formatting import listing
from server.sweep.parameters import SEED, fits, title_of
from server.sweep.spec import Table

Key = tuple[int, int]
"""The position of a cell: row, column."""
COSTS = (
    *("missing_train", "missing_validation", "missing_test", "tensor_bytes", "parameters", "train_seconds"),
    *("train_processor_seconds", "bytes_per_site", "sites", "sites_out", "best_round", "rounds"),
)
"""Columns with the mean costs of a cell's trials; missing if the cost of any of these trials is unknown."""
DIFFERENCES = ("difference", "difference_low", "difference_high", "p", "p_holm", "difference_seeds", "test_groups")
"""Columns of a cell about its difference from the baseline, missing until ``compare`` computes them."""
NOT_IN_CSV = ("trials", "seed_values", "published_text", "published_line", "difference_seeds", "test_groups")
RANKED = 2
"""The best and the second are marked."""


def named(labels: Labels) -> str:
    """``alpha 0.1, strategy fedavg``."""
    return ", ".join(f"{parameter} {value}" for parameter, value in labels.items())


def as_number(value: str) -> float | None:
    """``0.5`` and ``50%`` are 0.5; None if the text is not a finite number."""
    text, unit = (value[:-1], 100) if value.endswith("%") else (value, 1)
    try:
        found = float(text) / unit
    except ValueError:
        return None
    return found if math.isfinite(found) else None


@dataclass(frozen=True)
class Layout:
    """The ``table`` section of a sweep with all defaults resolved. Each combination of values of the parameters in
    ``sections`` has its own tables. ``parameters``: parameter -> its values, in order."""

    parameters: Mapping[str, list[str]]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    sections: tuple[str, ...]
    metrics: tuple[str, ...]
    baseline: Labels = field(default_factory=dict)
    bounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, parameters: Mapping[str, list[str]], metrics: Sequence[str]) -> Layout:
        """Lay out ``table`` for a sweep with ``parameters``; ``metrics`` are shown where it names none. Without rows,
        the parameters of the baseline are taken, or else the first free one; without columns, the next free one."""
        free = [name for name in parameters if name not in (SEED, *table.rows, *table.columns)]
        rows = table.rows or tuple(name for name in table.baseline if name in free) or tuple(free[:1])
        columns = table.columns or tuple(name for name in free if name not in rows)[:1]
        sections = tuple(name for name in free if name not in (*rows, *columns))
        shown = tuple(dict.fromkeys(table.metrics or metrics))
        return cls(parameters, rows, columns, sections, shown, table.baseline, table.bounds)

    @property
    def compared(self) -> tuple[str, ...]:
        """The parameters whose values are ranked against each other: those of the baseline or, without one, those in
        the rows whose values are not numbers, since methods compete with each other and missing rates do not."""
        return tuple(self.baseline) or tuple(name for name in self.rows if not self.numeric(name))

    def numeric(self, parameter: str) -> bool:
        """Whether all values of ``parameter`` are numbers."""
        return None not in map(as_number, self.parameters[parameter])

    def shared(self, labels: Labels) -> Labels:
        """What competitors have in common: the values of all parameters that are not compared."""
        return {name: value for name, value in labels.items() if name not in self.compared}

    def combinations(self, names: Iterable[str]) -> list[dict[str, str]]:
        """Every combination of the values of the parameters ``names``, in order; of no parameter, one empty one."""
        chosen = tuple(names)
        return [dict(zip(chosen, values, strict=True)) for values in product(*(self.parameters[n] for n in chosen))]

    def is_bound(self, labels: Labels) -> bool:
        """Whether ``labels`` are those of a bound, which is shown and not ranked."""
        return any(fits(labels, {name: values}) for name, values in self.bounds.items())


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one metric in one section of a sweep.

    ``rows`` and ``columns`` hold the parameter values of each row and column. ``cells`` is a frame with one row per
    cell that has scores; its index is the position ``(row, column)``, its columns are

    - ``trials``: the names of the trials, one per seed; ``seeds``: how many; ``seed_values``: which seeds;
    - ``mean`` and ``deviation`` of their scores (the sample standard deviation, missing for a single one);
    - ``place``: 1 for the best among its competitors, 2 for the second, else 0;
    - ``published``, ``published_deviation``, ``published_source``, ``published_text`` (the value as it is printed),
      ``published_line`` (in its file): the published value of the cell;
    - ``difference`` from the baseline, ``difference_low`` and ``difference_high`` (95% interval), ``p``, ``p_holm``
      (by Holm's procedure over all competitors), ``difference_seeds``, ``test_groups``;
    - the columns ``COSTS``, and ``protocol_faults`` (text).

    ``trials`` holds the trials behind the cells, with the columns of ``load_trials``. ``remarks`` are sentences about
    the scores; ``notes`` say which differences have no interval, and why.
    """

    metric: str
    section: Labels
    rows: list[dict[str, str]]
    columns: list[dict[str, str]]
    cells: pd.DataFrame = field(repr=False)
    trials: pd.DataFrame = field(repr=False)
    baseline: Labels = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def labels(self, key: Key) -> dict[str, str]:
        """Parameter -> value of one cell: those of the section, of its row and of its column."""
        return {**self.section, **self.rows[key[0]], **self.columns[key[1]]}

    @property
    def keys(self) -> list[Key]:
        """The positions of the cells."""
        return list(self.cells.index)

    def cell(self, key: Key) -> pd.Series[Any]:
        """One cell."""
        found: pd.Series[Any] = self.cells.loc[[key]].iloc[0]
        return found

    def families(self, layout: Layout) -> list[list[Key]]:
        """The cells that compete with each other: those that differ in the compared parameters alone."""
        found: dict[tuple[str, ...], list[Key]] = {}
        for key in self.keys:
            found.setdefault(tuple(layout.shared(self.labels(key)).values()), []).append(key)
        return list(found.values())

    def long(self) -> pd.DataFrame:
        """The cells with their parameters in columns, as in ``table.csv``. A parameter with the name of another column
        is called ``axis_<name>``."""
        columns = [column for column in self.cells if column not in NOT_IN_CSV]
        labels = pd.DataFrame([self.labels(key) for key in self.keys])
        labels.columns = [f"axis_{name}" if name in (*columns, "metric") else name for name in labels]
        cells = self.cells[columns].reset_index(drop=True)
        cells["place"] = cells["place"].map({1: "best", 2: "second"})
        return pd.concat([labels, pd.Series(self.metric, cells.index, name="metric"), cells], axis=1)


def score_tables(layout: Layout, trials: pd.DataFrame, published: Sequence[Published] = ()) -> list[ScoreTable]:
    """A table for each section and metric of which there are scores, ranked, and with published values.

    ``trials`` are the complete trials of a sweep, with the columns of ``load_trials``.
    """
    tables: list[ScoreTable] = []
    for section, metric in product(layout.combinations(layout.sections), layout.metrics):
        if table := score_table(layout, section, metric, matching(trials, section), published):
            tables.append(table)
    used = {line for table in tables for line in table.cells["published_line"]}
    noted = set()
    for place, table in enumerate(tables):  # the first of each metric says how many published values have no cell
        ours = [value for value in published if value.metric == table.metric]
        unused = sum(value.line not in used for value in ours)
        if unused and table.metric not in noted:
            remark = f"{unused} of {len(ours)} published values of this metric have no cell in these tables."
            tables[place] = replace(table, remarks=(*table.remarks, remark))
        noted.add(table.metric)
    return [rank(table, layout) for table in tables]


def matching(trials: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """The trials that have the values ``labels``."""
    for name, value in labels.items():
        trials = trials[trials[PARAMS + name] == value]
    return trials


def score_table(
    layout: Layout, section: Labels, metric: str, trials: pd.DataFrame, published: Sequence[Published]
) -> ScoreTable | None:
    """Group ``trials``, those of one section, by the parameters in rows and columns; None if none has the metric."""
    score = METRICS + metric
    scored = trials[trials[score].notna()] if score in trials else trials.iloc[:0]
    if scored.empty:
        return None
    parameters = [PARAMS + name for name in (*layout.rows, *layout.columns)]
    groups: dict[Any, pd.DataFrame] = {(): scored}
    if parameters:
        groups = dict(iter(scored.groupby(parameters, observed=True)))
    down, across = ({key[: len(layout.rows)] for key in groups}, {key[len(layout.rows) :] for key in groups})
    rows = [labels for labels in layout.combinations(layout.rows) if tuple(labels.values()) in down]
    columns = [labels for labels in layout.combinations(layout.columns) if tuple(labels.values()) in across]
    cells: dict[Key, dict[str, Any]] = {}
    for (row, below), (column, beside) in product(enumerate(rows), enumerate(columns)):
        own = groups.get((*below.values(), *beside.values()))
        if own is not None:
            value = find(published, {**section, **below, **beside}, metric)
            cells[row, column] = score_cell(own, score, value)
    frame = pd.DataFrame(list(cells.values()), pd.MultiIndex.from_tuples(list(cells), names=["row", "column"]))
    frame = frame.astype(dict.fromkeys((*COSTS, "published_deviation"), float))  # unknown ones are None
    lacking = listing([trial for trial in trials.index if trial not in scored.index])
    remarks = (f"Complete, and without this score: {lacking}.",) if lacking else ()
    return ScoreTable(metric, section, rows, columns, frame, scored, layout.baseline, remarks)


def score_cell(trials: pd.DataFrame, score: str, published: Published | None) -> dict[str, Any]:
    """Compute one cell of a table: the mean of the column ``score`` over ``trials``, which differ in the seed alone,
    their mean costs, and the published value."""
    scores = trials[score].tolist()
    columns = {"missing_train": MISSING + "train", "missing_validation": MISSING + "validation"}
    columns |= {"missing_test": MISSING + "test", "tensor_bytes": "bytes"}
    costs = {name: trials.get(columns.get(name, name), pd.Series(dtype=float)) for name in COSTS}
    costs["bytes_per_site"] = trials["bytes"] / trials["sites"]
    faults = dict.fromkeys(fault for faults in trials["protocol_faults"] for fault in faults or ())
    return {
        "trials": tuple(trials.index),
        "seed_values": frozenset(trials.get(PARAMS + SEED, ())),
        "seeds": len(scores),
        "mean": fmean(scores),
        "deviation": stdev(scores) if len(scores) > 1 else math.nan,
        "place": 0,
        "published": published.value if published else math.nan,
        "published_deviation": published.deviation if published else None,
        "published_source": published.source if published else None,
        "published_text": published.printed if published else None,
        "published_line": published.line if published else math.nan,
        **dict.fromkeys(DIFFERENCES, math.nan),
        **{name: mean_of(values) for name, values in costs.items()},
        "protocol_faults": " ".join(faults),
    }


def rank(table: ScoreTable, layout: Layout) -> ScoreTable:
    """Mark the best and the second of each family, equal ones alike. A single cell is not ranked, nor are means over
    different seeds: an easy seed would decide the ranking."""
    cells, unlike, bounds = table.cells.copy(), [], dict[str, None]()
    for family in table.families(layout):
        rivals = [key for key in family if not layout.is_bound(table.labels(key))]
        means = cells["mean"].loc[rivals]
        if cells["seed_values"].loc[rivals].nunique() > 1:
            unlike.append(title_of(layout.shared(table.labels(rivals[0]))) or "the methods of this table")
        elif len(rivals) > 1:
            places = means.rank(method="dense", ascending=not higher_is_better(table.metric)).astype(int)
            cells.loc[rivals, "place"] = places.where(places <= RANKED, 0)
    for key in table.keys:
        labels = table.labels(key)
        if layout.is_bound(labels):
            bounds[title_of({name: labels[name] for name in layout.bounds})] = None
    remarks = [f"Bounds, which are not ranked: {listing(list(bounds))}."] if bounds else []
    if unlike:
        remarks.append(f"Not ranked, since the means are not over the same seeds: {listing(unlike)}.")
    return replace(table, cells=cells, remarks=(*table.remarks, *remarks))


def compare(table: ScoreTable, layout: Layout, trials: pd.DataFrame, differences: Differences) -> ScoreTable:
    """Compute the differences of all cells from the baseline, whose trials are among ``trials``. The p-values of all
    competitors in a family are adjusted together; those of bounds are not adjusted."""
    cells = table.cells.copy()
    faults: list[tuple[str, PredictionFault]] = []
    for family in table.families(layout):
        p_values: dict[Key, float] = {}
        for key in family:
            labels = table.labels(key)
            if layout.baseline.items() <= labels.items():
                continue
            baseline = matching(trials, {**labels, **layout.baseline})
            try:
                found = differences.between(table.cell(key)["trials"], tuple(baseline.index), table.metric)
            except PredictionsError as error:
                faults.append((title_of(labels), error.fault))
                continue
            cells.loc[key, ["difference", "difference_seeds"]] = found.mean, found.seeds
            if found.fault:
                faults.append((title_of(labels), found.fault))
            if interval := found.interval:
                numbers = ["difference_low", "difference_high", "test_groups"]
                cells.loc[key, numbers] = interval.low, interval.high, interval.clusters
            if found.p is not None:
                cells.loc[key, "p"] = found.p
                if not layout.is_bound(labels):
                    p_values[key] = found.p
        for key, p in zip(p_values, holm(list(p_values.values())), strict=True):
            cells.loc[key, "p_holm"] = p
    notes = []
    for fault in merged(fault for _, fault in faults):
        fields = [field for field, other in faults if other.why == fault.why]
        notes.append(f"No interval for {'; '.join(fields)}: {fault}.")
    return replace(table, cells=cells, notes=tuple(notes))

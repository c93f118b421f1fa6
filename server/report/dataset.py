"""Description of a data set: its numbers, printed as tables in a terminal or drawn as one picture.

The numbers describe site folders as they are, or a data set as a run will use it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import SERVER, allocate
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, load_dataset
from fedrecon_core.data.missingness_summary import MissingnessSummary, summarise_allocation, summarise_dataset
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.datasets.sites import Sites, SitesParams
from fedrecon_core.types import SPLITS, DatasetSpec
from server.runs.formatting import DASH, count, percent

MAX_ROWS, END_ROWS = 12, 4
"""A longer table shows only this many rows at each end, and quantiles."""
MAX_COLUMNS = 5
"""Number of modalities side by side in a table."""
BINS, BAR_LENGTH = 8, 40
QUANTILES = {"lowest": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "highest": 1.0}
COLORS = ("#1f62a8", "#c2540a", "#18796b")
"""Colors of train, validation and test in the picture, as in the report."""
MAX_NAMED_ROWS, MAX_NUMBERED_COLUMNS, MAX_NAME = 24, 8, 24
"""With more rows, numbers replace their names; with more columns, fields have no numbers; longer names are cut."""
PANEL_WIDTH, PANEL_HEIGHT, DPI = 6.4, 3.6, 100
Panel = Callable[[Any], None]
"""Draws into axes."""


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers of a data set.

    ``patterns``: split -> missingness summary. ``lengths``: modality of variable length -> int64 [R], the steps of
    every sequence that is not missing, over all splits. ``notes`` explain how to read the numbers.
    """

    spec: DatasetSpec
    patterns: dict[str, MissingnessSummary]
    lengths: dict[str, IntArray]
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the training samples."""
        return self.patterns[SPLITS[0]].sites

    @property
    def splits_at_sites(self) -> tuple[str, ...]:
        """The splits whose samples are at these sites, not at the server."""
        return tuple(split for split in SPLITS if self.patterns[split].sites == self.sites)

    def missing(self, split: str) -> NDArray[np.float64]:
        """Share of a split's samples that lack each modality, float64 [M]; NaN if it has no samples."""
        return _share_lacking(self.patterns[split].by_modality, np.array(self.patterns[split].samples))

    def missing_by_site(self) -> NDArray[np.float64]:
        """Share of each site's training samples that lack each modality, float64 [S, M]."""
        return _share_lacking(self.patterns[SPLITS[0]].by_site, self.patterns[SPLITS[0]].of_site[:, None])

    def missing_by_class(self) -> NDArray[np.float64]:
        """Share of each class's training samples that lack each modality, float64 [C, M]."""
        return _share_lacking(self.patterns[SPLITS[0]].by_class, self.patterns[SPLITS[0]].of_class[:, None])


def _share_lacking(having: IntArray, total: IntArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - having / total, dtype=np.float64)


def summarize_folder(path: Path) -> DatasetSummary:
    """Summarize a site folder, or a folder of site folders.

    Raises:
        DataError: a folder has not been checked, or the folders do not agree.
    """
    single = (path / DESCRIPTION).is_file()
    dataset = open_folder(path) if single else Sites().load(SitesParams(name="sites"), path, 0)
    members = [dataset.members(number) for number in range(len(SPLITS))]
    exists = dataset.exists()
    return _summarize(dataset, summarise_dataset(dataset), [(samples, exists[samples]) for samples in members])


def summarize_config(config: RunConfig) -> DatasetSummary:
    """Summarize the data set of a config with the partition and the missingness of its run."""
    dataset = load_dataset(config)
    allocation = allocate(dataset, config)
    draws = config.missing.test.draws
    notes = [f"each test sample counts {draws} times, under {draws} masks"] if draws > 1 else []
    if config.evaluate.where == SERVER:
        notes.append("validation and test samples are at the server")
    left_out = ", ".join(f"{number} of {split}" for split, number in allocation.left_out.items() if number)
    if left_out:
        notes.append(f"left out, because they have no modality: {left_out} (missing.empty: allow keeps them)")
    present = []
    for split in SPLITS:
        shares = getattr(allocation, split).values()
        samples = np.concatenate([share.samples for share in shares])
        present.append((samples, np.concatenate([share.present for share in shares])))
    return _summarize(dataset, summarise_allocation(dataset, allocation), present, notes)


def _summarize(
    dataset: Dataset,
    patterns: dict[str, MissingnessSummary],
    present: Sequence[tuple[IntArray, BoolArray]],
    notes: Sequence[str] = (),
) -> DatasetSummary:
    """Add the lengths; ``present``: per split its samples, int64 [N], and which modalities each has, bool [N, M]."""
    if dataset.spec.target == "multilabel":
        notes = ["a sample counts in each of its classes", *notes]
    lengths = {}
    for name, offsets in dataset.offsets.items():
        column = dataset.spec.names.index(name)
        rows = [dataset.rows[name][samples[mask[:, column]]] for samples, mask in present]
        lengths[name] = np.asarray(np.diff(offsets)[np.concatenate(rows)], dtype=np.int64)
    return DatasetSummary(dataset.spec, patterns, lengths, dataset.faults, tuple(notes))


def length_histogram(lengths: IntArray, bins: int) -> tuple[IntArray, IntArray]:
    """Return the counts int64 [B] of at most ``bins`` bins and their borders int64 [B + 1].

    A bin includes its first border and excludes its last.
    """
    low, high = int(lengths.min()), int(lengths.max())
    step = max(-(-(high - low + 1) // bins), 1)
    borders = np.arange(low, high + step + 1, step, dtype=np.int64)
    borders = borders[: int(np.searchsorted(borders, high, side="right")) + 1]
    return np.bincount((lengths - low) // step, minlength=len(borders) - 1).astype(np.int64), borders


# --- tables that stay readable at 80 columns and with a hundred sites -----------------------------------------------


def print_tables(summary: DatasetSummary, console: Console) -> None:
    """Print the description of a data set: its name, faults and notes, then all tables."""
    counts = ", ".join(f"{count(summary.patterns[split].samples)} {split}" for split in SPLITS)
    places = f", {len(summary.sites)} sites" if summary.sites else ""
    about = (
        f"{summary.spec.name}: {counts} samples, {len(summary.spec.classes)} classes ({summary.spec.target}){places}"
    )
    console.print(about, highlight=False, markup=False, style="bold")
    for fault in summary.faults:
        console.print(f"fault of the protocol: {fault}", highlight=False, markup=False, style="yellow")
    for note in summary.notes:
        console.print(note, highlight=False, markup=False)
    for table in tables(summary):
        console.print(table)


def tables(summary: DatasetSummary) -> Iterator[Group]:
    """Yield counts by class, by site and by combination of modalities, missing rates, and lengths."""
    spec, patterns = summary.spec, [summary.patterns[split] for split in SPLITS]
    classes = np.stack([pattern.of_class for pattern in patterns], axis=1)
    multilabel = spec.target == "multilabel"
    yield Grid("Samples by class", "class", spec.classes, SPLITS, classes, total=not multilabel).render()
    if summary.sites:
        splits = summary.splits_at_sites
        sites = np.stack([summary.patterns[split].of_site for split in splits], axis=1)
        yield Grid("Samples by site", "site", summary.sites, splits, sites, total=True).render()
    rates = np.stack([summary.missing(split) for split in SPLITS], axis=1)
    modalities = [f"{m.name} {m.kind} [{', '.join(map(str, m.shape))}]" for m in spec.modalities]
    yield Grid("Samples that lack each modality", "modality", modalities, SPLITS, rates, percent).render()
    yield _combinations_table(summary)
    if (rates[:, 0] > 0).any():
        for what, rows, values in (
            ("class", spec.classes, summary.missing_by_class()),
            ("site", summary.sites, summary.missing_by_site()),
        ):
            for start in range(0, len(spec.names) if rows else 0, MAX_COLUMNS):
                columns = slice(start, start + MAX_COLUMNS)
                title = f"Training samples that lack a modality, by {what}"
                yield Grid(title, what, rows, spec.names[columns], values[:, columns], percent).render()
    for name in summary.lengths:
        yield _lengths_table(summary, name)


@dataclass(frozen=True)
class Grid:
    """A table of ``values`` [rows, columns]; NaN is printed as a dash. ``total`` adds a row of sums."""

    title: str
    row_header: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: NDArray[Any]
    number_format: Callable[[float], str] = count
    total: bool = False

    def render(self) -> Group:
        """Return the table under its title; if it is long, its first and last rows, and quantiles of all."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(self.row_header)
        for name in self.columns:
            table.add_column(escape(name), justify="right")
        long, places = len(self.rows) > MAX_ROWS, range(len(self.rows))
        for place in [*places[:END_ROWS], *places[-END_ROWS:]] if long else places:
            last = place == len(self.rows) - 1 or (long and place == END_ROWS - 1)
            table.add_row(escape(self.rows[place]), *self._texts(self.values[place]), end_section=last)
        if long:
            known = [column[~np.isnan(column)] for column in self.values.T]
            for name, share in QUANTILES.items():
                quantiles = [np.quantile(column, share) if len(column) else np.nan for column in known]
                table.add_row(f"{name} of {len(self.rows)}", *self._texts(quantiles))
        if self.total:
            table.add_row("all", *self._texts(self.values.sum(axis=0)), style="bold")
        return Group(Text(self.title, style="bold"), table)

    def _texts(self, values: Sequence[float] | NDArray[np.float64]) -> list[str]:
        return [DASH if np.isnan(value) else self.number_format(float(value)) for value in values]


def _combinations_table(summary: DatasetSummary) -> Group:
    total: dict[tuple[str, ...], NDArray[np.float64]] = {}
    for column, split in enumerate(SPLITS):
        for names, number in summary.patterns[split].combinations.items():
            total.setdefault(names, np.zeros(len(SPLITS)))[column] = number
    order = sorted(total, key=lambda names: -float(total[names].sum()))
    kept = order if len(order) <= MAX_ROWS else order[: MAX_ROWS - 1]
    rows, values = [" + ".join(names) or "nothing" for names in kept], [total[names] for names in kept]
    if rest := order[len(kept) :]:
        rows.append(f"{len(rest)} other combinations")
        values.append(np.sum([total[names] for names in rest], axis=0))
    return Grid("Samples by what they have", "modalities", rows, SPLITS, np.array(values), total=True).render()


def _lengths_table(summary: DatasetSummary, name: str) -> Group:
    lengths, longest = summary.lengths[name], summary.spec[name].shape[0]
    title = Text(f"Lengths of {name} (at most {longest} steps)", style="bold")
    if not len(lengths):
        return Group(title, Text("no sequences"))
    facts = {"min": lengths.min(), "median": np.median(lengths), "90%": np.quantile(lengths, 0.9), "max": lengths.max()}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("steps", justify="right")
    table.add_column("sequences", justify="right")
    table.add_column(", ".join(f"{what} {value:.0f}" for what, value in facts.items()))
    counts, borders = length_histogram(lengths, BINS)
    for number, low, above in zip(counts.tolist(), borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        bar = "#" * -(-number * BAR_LENGTH // max(int(counts.max()), 1))
        table.add_row(str(low) if above - low == 1 else f"{low} to {above - 1}", count(number), bar)
    return Group(title, table)


# --- the picture ----------------------------------------------------------------------------------------------------


def save_picture(summary: DatasetSummary, path: Path) -> None:
    """Draw the description and save it as PNG under ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = panels_of(summary)
    rows = -(-len(panels) // 2)
    size = (2 * PANEL_WIDTH, rows * PANEL_HEIGHT + 0.5)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{_name(summary.spec.name, 60)}: {sum(p.samples for p in summary.patterns.values()):,} samples")
    grid = figure.subplots(rows, 2, squeeze=False)
    marks = [Patch(color=color, label=split) for split, color in zip(SPLITS, COLORS, strict=True)]
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), frameon=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is drawn as a box
        figure.savefig(path, format="png", metadata={"Software": None})


def panels_of(summary: DatasetSummary) -> list[Panel]:
    """Return the panels that have something to show."""
    classes = np.stack([summary.patterns[split].of_class for split in SPLITS])
    panels: list[Panel] = [partial(_draw_counts, names=summary.spec.classes, counts=classes, what="class")]
    if summary.sites:
        sites = np.stack([summary.patterns[split].of_site for split in summary.splits_at_sites])
        panels.append(partial(_draw_counts, names=summary.sites, counts=sites, what="site"))
    panels += [partial(_draw_combinations, summary=summary), partial(_draw_missing_rates, summary=summary)]
    if (summary.missing("train") > 0).any():
        by_class, by_site = summary.missing_by_class(), summary.missing_by_site()
        panels.append(
            partial(_draw_rate_map, summary=summary, rates=by_class, names=summary.spec.classes, what="class")
        )
        if len(by_site):
            panels.append(partial(_draw_rate_map, summary=summary, rates=by_site, names=summary.sites, what="site"))
    lengths = [name for name, found in summary.lengths.items() if len(found)]
    return [*panels, *(partial(_draw_lengths, summary=summary, modality=name) for name in lengths)]


def _name(text: str, longest: int = MAX_NAME) -> str:
    """Return a name as plain text, not as a formula; the middle of a long one is cut out."""
    half = longest // 2
    return (text if len(text) <= longest else f"{text[:half]}…{text[1 - half :]}").replace("$", r"\$")


def _label_rows(axes: Any, names: Sequence[str], what: str, longest: int = MAX_NAME) -> NDArray[np.int64]:
    """Label rows from the top down with their names, or with numbers if they are many; return their positions."""
    places = np.arange(len(names))
    if len(names) <= MAX_NAMED_ROWS:
        axes.set_yticks(places, [_name(name, longest) for name in names], fontsize=8 if len(names) <= 14 else 6)
    else:
        axes.set_ylabel(f"{what} (in order)")
    axes.set_ylim(len(names) - 0.5, -0.5)
    return places


def _draw_counts(axes: Any, names: Sequence[str], counts: NDArray[np.int64], what: str) -> None:
    """Draw ``counts`` [splits, rows] as stacked bars."""
    places, before = _label_rows(axes, names, what), np.zeros(len(names))
    for color, values in zip(COLORS, counts, strict=False):  # validation and test samples may be at the server
        axes.barh(places, values, 0.8 if len(names) <= MAX_NAMED_ROWS else 1.0, left=before, color=color)
        before += values
    axes.set_title(f"Samples by {what}")
    axes.set_xlabel("samples")


def _draw_shares(axes: Any, names: Sequence[str], shares: NDArray[np.float64]) -> None:
    """Draw ``shares`` [3, rows] as one bar per split in each row."""
    places = _label_rows(axes, names, "", 36)
    for turn, color in enumerate(COLORS):
        axes.barh(places + (turn - 1) * 0.27, 100 * np.nan_to_num(shares[turn]), 0.27, color=color)
    axes.set_xlabel("% of the split")


def _draw_combinations(axes: Any, summary: DatasetSummary) -> None:
    patterns = [summary.patterns[split] for split in SPLITS]
    total: Counter[tuple[str, ...]] = Counter()
    for pattern in patterns:
        total.update(pattern.combinations)
    shown = [names for names, _ in total.most_common(10)]
    shares = [[pattern.combinations.get(names, 0) / max(pattern.samples, 1) for names in shown] for pattern in patterns]
    _draw_shares(axes, [" + ".join(names) or "nothing" for names in shown], np.array(shares))
    more = f" (the {len(shown)} most frequent of {len(total)})" if len(total) > len(shown) else ""
    axes.set_title(f"What samples have{more}")


def _draw_missing_rates(axes: Any, summary: DatasetSummary) -> None:
    _draw_shares(axes, summary.spec.names, np.stack([summary.missing(split) for split in SPLITS]))
    axes.set_title("Samples that lack each modality")
    axes.set_xlim(0, 100)


def _draw_rate_map(
    axes: Any, summary: DatasetSummary, rates: NDArray[np.float64], names: Sequence[str], what: str
) -> None:
    from matplotlib import colormaps

    _label_rows(axes, names, what)
    colors = colormaps["Blues"].with_extremes(bad="#dddddd")  # a site without samples
    image = axes.imshow(100 * rates, aspect="auto", vmin=0, vmax=100, cmap=colors, interpolation="nearest")
    if len(names) <= MAX_NAMED_ROWS and rates.shape[1] <= MAX_NUMBERED_COLUMNS:
        for (row, column), rate in np.ndenumerate(rates):
            shade = "white" if rate > 0.6 else "#333333"
            text = percent(None if np.isnan(rate) else rate, 0)
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=7)
    modalities = summary.spec.names
    rotation = 45 if max(map(len, modalities)) * len(modalities) > 40 else 0
    axes.set_xticks(range(len(modalities)), [_name(name) for name in modalities], rotation=rotation)
    axes.set_title(f"Training samples that lack a modality, by {what}")
    axes.figure.colorbar(image, ax=axes, label="% of its samples")


def _draw_lengths(axes: Any, summary: DatasetSummary, modality: str) -> None:
    lengths = summary.lengths[modality]
    counts, borders = length_histogram(lengths, 30)
    edges = borders - 0.5  # centers the bar of a single length on it
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#5a6675", edgecolor="white", linewidth=0.5)
    median, most = np.median(lengths), np.quantile(lengths, 0.9)
    axes.axvline(median, color="black", linestyle="--")
    axes.axvline(most, color="black", linestyle=":")
    axes.set_title(f"Lengths of {_name(modality)}: median {median:.0f} (- -), 90% {most:.0f} (..)")
    axes.set_xlabel(f"steps (at most {summary.spec[modality].shape[0]})")
    axes.set_ylabel("sequences")

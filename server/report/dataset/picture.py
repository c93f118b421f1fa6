"""A description as one picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.types import SPLITS
from server.report.dataset.summary import View, histogram
from server.runs.formatting import percent

COLOURS = ("#1f62a8", "#c2540a", "#18796b")
"""Of train, validation and test, as in the report."""
NAMED, MARKED, LONGEST = 24, 8, 24
"""More rows than this have numbers for names, more columns no numbers in their fields; longer names are cut."""
WIDE, TALL, DPI = 6.4, 3.6, 100
Panel = Callable[[Any], None]
"""Draws into axes."""


def save_picture(view: View, path: Path) -> None:
    """Draw ``view`` and save it as PNG under ``path``; ``OSError`` where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = panels_of(view)
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(2 * WIDE, rows * TALL + 0.5), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{_name(view.spec.name, 60)}: {sum(p.samples for p in view.patterns.values()):,} samples")
    grid = figure.subplots(rows, 2, squeeze=False)
    marks = [Patch(color=colour, label=split) for split, colour in zip(SPLITS, COLOURS, strict=True)]
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), frameon=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is drawn as a box
        figure.savefig(path, format="png", metadata={"Software": None})


def panels_of(view: View) -> list[Panel]:
    """The panels that have something to show."""
    patterns = [view.patterns[split] for split in SPLITS]
    classes = np.stack([pattern.of_class for pattern in patterns])
    panels: list[Panel] = [
        partial(_stacked, title="Samples by class", names=view.spec.classes, counts=classes, what="class")
    ]
    if view.sites:
        sites = np.stack([view.patterns[split].of_site for split in view.at_sites])
        panels.append(partial(_stacked, title="Samples by site", names=view.sites, counts=sites, what="site"))
    panels += [partial(_combinations, view=view), partial(_rates, view=view)]
    if (view.missing("train") > 0).any():
        by_class, by_site = view.missing_by_class(), view.missing_by_site()
        panels.append(partial(_map, view=view, rates=by_class, names=view.spec.classes, what="class"))
        if len(by_site):
            panels.append(partial(_map, view=view, rates=by_site, names=view.sites, what="site"))
    return [*panels, *(partial(_lengths, view=view, modality=name) for name, n in view.lengths.items() if len(n))]


def _name(text: str, longest: int = LONGEST) -> str:
    """A name as plain text (no formula); of a long one the middle is left out."""
    half = longest // 2
    return (text if len(text) <= longest else f"{text[:half]}…{text[1 - half :]}").replace("$", r"\$")


def _rows(axes: Any, names: Sequence[str], what: str, longest: int = LONGEST) -> NDArray[np.int64]:
    """Places of rows from the top down, under their names or, where these are many, numbers."""
    places = np.arange(len(names))
    if len(names) <= NAMED:
        axes.set_yticks(places, [_name(name, longest) for name in names], fontsize=8 if len(names) <= 14 else 6)
    else:
        axes.set_ylabel(f"{what} (in order)")
    axes.set_ylim(len(names) - 0.5, -0.5)
    return places


def _stacked(axes: Any, title: str, names: Sequence[str], counts: NDArray[np.int64], what: str) -> None:
    places, before = _rows(axes, names, what), np.zeros(len(names))
    for colour, values in zip(COLOURS, counts, strict=False):  # held-out samples may lie elsewhere
        axes.barh(places, values, 0.8 if len(names) <= NAMED else 1.0, left=before, color=colour)
        before += values
    axes.set_title(title)
    axes.set_xlabel("samples")


def _grouped(axes: Any, names: Sequence[str], shares: NDArray[np.float64]) -> None:
    """``shares`` [3, rows]: a bar per split in each row."""
    places = _rows(axes, names, "", 36)
    for turn, colour in enumerate(COLOURS):
        axes.barh(places + (turn - 1) * 0.27, 100 * np.nan_to_num(shares[turn]), 0.27, color=colour)


def _combinations(axes: Any, view: View) -> None:
    patterns = [view.patterns[split] for split in SPLITS]
    total: dict[tuple[str, ...], int] = {}
    for pattern in patterns:
        for names, number in pattern.combinations.items():
            total[names] = total.get(names, 0) + number
    shown = sorted(total, key=lambda names: -total[names])[:10]
    shares = [[pattern.combinations.get(names, 0) / max(pattern.samples, 1) for names in shown] for pattern in patterns]
    _grouped(axes, [" + ".join(names) or "nothing" for names in shown], np.array(shares))
    more = f" (the {len(shown)} most frequent of {len(total)})" if len(total) > len(shown) else ""
    axes.set_title(f"What samples have{more}")
    axes.set_xlabel("% of the split")


def _rates(axes: Any, view: View) -> None:
    _grouped(axes, view.spec.names, np.stack([view.missing(split) for split in SPLITS]))
    axes.set_title("Samples that lack each modality")
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the split")


def _map(axes: Any, view: View, rates: NDArray[np.float64], names: Sequence[str], what: str) -> None:
    from matplotlib import colormaps

    _rows(axes, names, what)
    colours = colormaps["Blues"].with_extremes(bad="#dddddd")  # a site without samples
    image = axes.imshow(100 * rates, aspect="auto", vmin=0, vmax=100, cmap=colours, interpolation="nearest")
    for (row, column), rate in np.ndenumerate(rates) if len(names) <= NAMED and rates.shape[1] <= MARKED else ():
        shade = "white" if rate > 0.6 else "#333333"
        axes.text(column, row, percent(_known(rate), 0), ha="center", va="center", color=shade, fontsize=7)
    turned = max(map(len, view.spec.names)) * len(view.spec.names) > 40
    axes.set_xticks(
        range(len(view.spec.names)), [_name(name) for name in view.spec.names], rotation=45 if turned else 0
    )
    axes.set_title(f"Training samples that lack a modality, by {what}")
    axes.figure.colorbar(image, ax=axes, label="% of its samples")


def _known(rate: float) -> float | None:
    return None if np.isnan(rate) else rate


def _lengths(axes: Any, view: View, modality: str) -> None:
    counts, borders = histogram(view.lengths[modality], 30)
    lengths = view.lengths[modality]
    edges = borders - 0.5  # a bar of one length stands over it
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#5a6675", edgecolor="white", linewidth=0.5)
    median, most = np.median(lengths), np.quantile(lengths, 0.9)
    axes.axvline(median, color="black", linestyle="--")
    axes.axvline(most, color="black", linestyle=":")
    axes.set_title(f"Lengths of {_name(modality)}: median {median:.0f} (- -), 90% {most:.0f} (..)")
    axes.set_xlabel(f"steps (at most {view.spec[modality].shape[0]})")
    axes.set_ylabel("sequences")

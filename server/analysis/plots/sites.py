"""Dot plots of data partitions: how many training samples of each class a site has, as the area of a dot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.errors import DataError
from server.analysis.plots.style import COLUMN, GREY, LETTER, LINE, PAGE, Drawing, legend_columns, look, short
from server.analysis.published import Labels
from server.analysis.results import SweepResults
from server.analysis.tables import named
from server.runs.formatting import count
from server.runs.readers import json_mapping
from server.runs.record import RunRecord, entries, mapping, number
from server.runs.summary import described_sites, modalities
from server.sweep.parameters import slug_of

FEW_SITES = 14
"""Figures of more sites take the width of a page."""
FEW_CLASSES, MOST_NAMES = 30, 36
"""Of more classes, or more sites, only some have a label."""
TALL = 0.24
"""Inches per class and per modality."""
DOT = 1.5
"""Largest diameter of a dot, in distances between sites; dots are translucent and may overlap."""
SEEN = 0.07
"""Smallest diameter of the largest dot, in inches."""


@dataclass(frozen=True)
class Allocation:
    """The training data of the sites in the trial with ``labels``. ``counts`` int64 [C, S]: samples of each class at
    each site. ``present`` float64 [M, S]: share of a site's samples that have a modality."""

    labels: Labels
    sites: tuple[str, ...]
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    counts: NDArray[np.int64]
    present: NDArray[np.float64]

    @property
    def lacking(self) -> NDArray[np.bool_]:
        """Bool [S]: the sites without any sample of some modality."""
        found: NDArray[np.bool_] = (self.present == 0).any(axis=0)
        return found


def sites(results: SweepResults) -> list[Drawing]:
    """The figure of the first complete trial.

    Raises:
        DataError: its manifest lacks the number of samples of each class at each site.
    """
    trial = str(results.trials.index[0])
    manifest = json_mapping(results.sweep.value(trial, "manifest") or "") or {}
    labels, directory = results.sweep.labels(trial), results.sweep.directory_of(trial)
    allocation = allocation_of(RunRecord(directory, manifest=manifest), labels)
    return [Drawing(f"sites-{slug_of(labels)}", partial(draw, allocation))]


def allocation_of(run: RunRecord, labels: Labels) -> Allocation:
    """Read the allocation from the manifest of a run; errors as for ``sites``."""
    found = described_sites(run)
    classes, names = tuple(map(str, entries(run.manifest.get("classes")))), tuple(modalities(run))
    counted = [[number(value) for value in entries(site.get("classes"))] for site in found]
    if not found or not classes or any(len(row) != len(classes) or None in row for row in counted):
        fault = "expected the number of samples of each class at each site, found none or only some of them"
        raise DataError(f"{run.directory / 'manifest.json'}: {fault}; deployed sites do not report them")
    shares = [[number(mapping(site.get("modalities")).get(name)) or 0.0 for name in names] for site in found]
    return Allocation(
        labels=labels,
        sites=tuple(str(site["name"]) for site in found),
        classes=classes,
        modalities=names,
        counts=np.array(counted, dtype=np.int64).T,
        present=np.array(shares, dtype=np.float64).T,
    )


def draw(allocation: Allocation) -> Any:
    """Draw the figure (``matplotlib.figure.Figure``): sites across, classes down. Dots of sites that lack a modality
    completely have another color, and a strip below shows which modality."""
    from matplotlib.figure import Figure

    some = bool(allocation.lacking.any())
    panels = [TALL * min(len(allocation.classes), FEW_CLASSES), TALL * len(allocation.modalities)][: 1 + some]
    width = COLUMN if len(allocation.sites) <= FEW_SITES else PAGE
    names = site_names(allocation.sites)
    vertical = max(map(len, names)) > 3
    below = LETTER * max(map(len, names)) if vertical else 0.0
    figure = Figure(figsize=(width, sum(panels) + below + 1.0 + 2 * LINE * some))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=panels)[:, 0]
    handles = _dots(axes[0], allocation, width)
    if some:
        rows, columns = np.nonzero(allocation.present == 0)
        style: Any = {"marker": "o", "linestyle": "none", "markersize": 5, "markeredgewidth": 0}
        color = look(1).color
        handles.append(axes[1].scatter(columns, rows, 14, marker="x", c=color, linewidths=1, label="modality absent"))
        _label_rows(axes[1], allocation.modalities, "")
        handles += axes[1].plot([], [], color=color, **style, label="site that lacks one")
    step = 1 if len(names) <= MOST_NAMES else 5 * -(-len(names) // (5 * MOST_NAMES))
    axes[-1].set_xticks(range(0, len(names), step), names[::step], rotation=90 if vertical else 0)
    axes[-1].set_xlim(-0.7, len(names) - 0.3)
    axes[-1].set_xlabel("site")
    figure.suptitle(short(named(allocation.labels), int((width - 0.2) / LETTER)))
    columns_of_legend = legend_columns([handle.get_label() for handle in handles], width)
    placed: Any = {
        "loc": "outside lower center",
        "ncols": columns_of_legend,
        "scatteryoffsets": [0.5],
        "labelspacing": 0.9,
    }
    figure.legend(handles=handles, **placed)
    return figure


def _dots(axes: Any, allocation: Allocation, width: float) -> list[Any]:
    """Draw the dots; returns handles of three areas for the legend."""
    left = LETTER * max(len(short(name)) for name in (*allocation.classes, *allocation.modalities))
    across = (width - left - 0.3) / len(allocation.sites)
    down = TALL * min(1.0, FEW_CLASSES / len(allocation.classes))
    largest = float(72 * min(max(0.9 * down, SEEN), DOT * across)) ** 2  # in square points
    most = max(1, int(allocation.counts.max()))
    rows, columns = np.nonzero(allocation.counts)
    sizes = largest * allocation.counts[rows, columns] / most
    colors = np.where(allocation.lacking[columns], look(1).color, look(0).color)
    axes.scatter(columns, rows, sizes, c=colors, alpha=0.75, linewidths=0, clip_on=False)
    _label_rows(axes, allocation.classes, "class")
    handles = []
    for shown in dict.fromkeys(max(1, round(part * most)) for part in (0.1, 0.5, 1)):
        name = f"{count(shown)} sample{'s' * (shown > 1)}"
        handles.append(axes.scatter([], [], largest * shown / most, c=GREY, linewidths=0, label=name))
    return handles


def _label_rows(axes: Any, names: Sequence[str], title: str) -> None:
    step = -(-len(names) // FEW_CLASSES)
    axes.set_yticks(range(0, len(names), step), [short(name) for name in names[::step]])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel(title)


def site_names(names: Sequence[str]) -> list[str]:
    """The labels of sites: the number of ``site-0003``, or else the shortened name."""
    numbered = [re.fullmatch(r"site-(\d+)", name) for name in names]
    return [str(int(found[1])) if found else short(name) for found, name in zip(numbered, names, strict=True)]

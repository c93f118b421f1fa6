"""The numbers of a description: of site folders as they are, or of a data set as a run will use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import SERVER, Allocation, allocate
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, load_dataset
from fedrecon_core.data.missingness_summary import MissingnessSummary, summarise_allocation, summarise_dataset
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.datasets.sites import Sites, SitesParams
from fedrecon_core.types import SPLITS, DatasetSpec

Shown = dict[str, tuple[IntArray, BoolArray]]
"""Split -> the samples that are shown, int64 [N], and which modalities of theirs are, bool [N, M]."""


@dataclass(frozen=True)
class View:
    """Numbers of a data set. ``patterns``: split -> missingness summary. ``lengths``: modality of variable length ->
    int64 [R], the steps of every sequence that is shown, over all splits. ``notes``: how to read the numbers."""

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
    def at_sites(self) -> tuple[str, ...]:
        """The splits whose samples lie at these sites, not at the server."""
        return tuple(split for split in SPLITS if self.patterns[split].sites == self.sites)

    def missing(self, split: str) -> NDArray[np.float64]:
        """float64 [M]: the share of a split's samples that lack each modality; NaN without samples."""
        return _lacking(self.patterns[split].by_modality, np.array(self.patterns[split].samples))

    def missing_by_site(self) -> NDArray[np.float64]:
        """float64 [S, M]: the same of the training samples of each site of the split."""
        return _lacking(self.patterns[SPLITS[0]].by_site, self.patterns[SPLITS[0]].of_site[:, None])

    def missing_by_class(self) -> NDArray[np.float64]:
        """float64 [C, M]: the same of the training samples of each class."""
        return _lacking(self.patterns[SPLITS[0]].by_class, self.patterns[SPLITS[0]].of_class[:, None])


def _lacking(having: IntArray, of: IntArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - having / of, dtype=np.float64)


def folder_view(path: Path) -> View:
    """Describe a site folder or a folder of them; ``DataError`` if one is not checked, or if they do not agree."""
    single = (path / DESCRIPTION).is_file()
    dataset = open_folder(path) if single else Sites().load(SitesParams(name="sites"), path, 0)
    exists = dataset.exists()
    members = {split: dataset.members(number) for number, split in enumerate(SPLITS)}
    shown = {split: (samples, exists[samples]) for split, samples in members.items()}
    return _view(dataset, summarise_dataset(dataset), shown)


def config_view(config: RunConfig) -> View:
    """Describe the data set of a config with the partition and the missingness of its run."""
    dataset = load_dataset(config)
    allocation = allocate(dataset, config)
    draws = config.missing.test.draws
    notes: tuple[str, ...] = (f"each test sample counts {draws} times, under {draws} masks",) if draws > 1 else ()
    if config.evaluate.where == SERVER:
        notes += ("validation and test samples lie at the server",)
    left = ", ".join(f"{count} of {split}" for split, count in allocation.left_out.items() if count)
    notes += (f"left out, since they show no modality: {left} (missing.empty: allow keeps them)",) if left else ()
    return _view(dataset, summarise_allocation(dataset, allocation), _shares(allocation), notes)


def _shares(allocation: Allocation) -> Shown:
    shown: Shown = {}
    for split in SPLITS:
        shares = getattr(allocation, split).values()
        samples = np.concatenate([share.samples for share in shares])
        shown[split] = samples, np.concatenate([share.present for share in shares])
    return shown


def _view(dataset: Dataset, patterns: dict[str, MissingnessSummary], shown: Shown, notes: tuple[str, ...] = ()) -> View:
    several = dataset.spec.target == "multilabel"
    notes = ("a sample counts in each of its classes", *notes) if several else notes
    lengths = {name: _lengths(dataset, name, shown) for name in dataset.offsets}
    return View(dataset.spec, patterns, lengths, dataset.faults, notes)


def _lengths(dataset: Dataset, name: str, shown: Shown) -> IntArray:
    column, steps = dataset.spec.names.index(name), np.diff(dataset.offsets[name])
    rows = [dataset.rows[name][samples[present[:, column]]] for samples, present in shown.values()]
    return np.asarray(steps[np.concatenate(rows)], dtype=np.int64)


def histogram(lengths: IntArray, bins: int) -> tuple[IntArray, IntArray]:
    """The counts int64 [B] of at most ``bins`` bins and their borders int64 [B + 1]; a bin holds its first border."""
    low, high = int(lengths.min()), int(lengths.max())
    step = max(-(-(high - low + 1) // bins), 1)
    borders = np.arange(low, high + step + 1, step, dtype=np.int64)
    borders = borders[: int(np.searchsorted(borders, high, side="right")) + 1]
    return np.bincount((lengths - low) // step, minlength=len(borders) - 1).astype(np.int64), borders

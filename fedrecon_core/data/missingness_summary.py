"""Summaries of missingness: which modalities occur together, and how often each occurs per site and per class."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np

from fedrecon_core.data.allocation import Allocation, Share
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.types import SPLITS, DatasetSpec


@dataclass(frozen=True)
class MissingnessSummary:
    """Counts of samples over the modalities ``names``, the ``sites`` and the ``classes``, in this order.

    ``samples``: the number of all samples. ``combinations``: set of modalities that occur together -> number of such
    samples, the most frequent first; the empty tuple stands for samples without a modality. ``by_modality`` int64 [M]:
    samples that have each modality. ``of_site`` int64 [S] and ``of_class`` int64 [C]: all samples of each site and
    class; ``by_site`` int64 [S, M] and ``by_class`` int64 [C, M]: those that have each modality. S is 0 if no sites are
    known. A multilabel sample counts in each of its classes.
    """

    names: tuple[str, ...]
    sites: tuple[str, ...]
    classes: tuple[str, ...]
    samples: int
    combinations: dict[tuple[str, ...], int]
    by_modality: IntArray
    of_site: IntArray
    by_site: IntArray
    of_class: IntArray
    by_class: IntArray

    @classmethod
    def of(
        cls,
        spec: DatasetSpec,
        labels: IntArray,
        present: BoolArray,
        owner: IntArray | None = None,
        sites: tuple[str, ...] = (),
    ) -> MissingnessSummary:
        """Summarize ``present`` (bool [N, M]) for samples with ``labels`` (int64 [N], or zeros and ones [N, C]).

        ``owner`` int64 [N] is the position of each sample's site in ``sites``; without it nothing is counted by site.
        """

        def count_present(place: IntArray, present: BoolArray, places: int) -> IntArray:  # int64 [places, M]
            columns = [np.bincount(place[column], minlength=places)[:places] for column in present.T]
            return np.stack(columns, axis=1).astype(np.int64)

        known = () if owner is None else sites
        site = np.zeros(len(present), dtype=np.int64) if owner is None else owner
        sample, label = (np.arange(len(labels)), labels) if labels.ndim == 1 else np.nonzero(labels)
        masks, counts = np.unique(present, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return cls(
            names=spec.names,
            sites=known,
            classes=spec.classes,
            samples=len(present),
            combinations={tuple(compress(spec.names, masks[at])): int(counts[at]) for at in order},
            by_modality=present.sum(axis=0, dtype=np.int64),
            of_site=np.bincount(site, minlength=len(known))[: len(known)],
            by_site=count_present(site, present, len(known)),
            of_class=np.bincount(label, minlength=len(spec.classes)),
            by_class=count_present(label, present[sample], len(spec.classes)),
        )


def summarise_dataset(dataset: Dataset) -> dict[str, MissingnessSummary]:
    """Split -> summary of the data set before any simulated missingness."""
    exists, found = dataset.exists(), {}
    for number, split in enumerate(SPLITS):
        members = dataset.members(number)
        labels, owner = dataset.labels[members], None if dataset.owner is None else dataset.owner[members]
        found[split] = MissingnessSummary.of(dataset.spec, labels, exists[members], owner, dataset.sites)
    return found


def summarise_allocation(dataset: Dataset, allocation: Allocation) -> dict[str, MissingnessSummary]:
    """Split -> summary of the masks of a run. A sample under several draws of masks counts once per draw; if the server
    evaluates a split, its only site is ``server``."""
    found = {}
    for split in SPLITS:
        shares: dict[str, Share] = getattr(allocation, split)
        samples = np.concatenate([share.samples for share in shares.values()])
        present = np.concatenate([share.present for share in shares.values()])
        owner = np.repeat(np.arange(len(shares)), [len(share.samples) for share in shares.values()])
        found[split] = MissingnessSummary.of(dataset.spec, dataset.labels[samples], present, owner, tuple(shares))
    return found

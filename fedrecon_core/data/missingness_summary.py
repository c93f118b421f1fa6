"""The pattern of presence: which modalities occur together, and how often each is there at a site and in a class."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np

from fedrecon_core.data.allocation import Allocation, Share
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.types import SPLITS, DatasetSpec


@dataclass(frozen=True)
class MissingnessSummary:
    """Counts of samples over the modalities ``names``, the ``sites`` and the ``classes``, in their order.

    ``combinations``: the modalities that are there together -> number of such samples, the most frequent first; the
    empty tuple stands for samples without any. ``samples`` is the number of all. Samples altogether, and of them those
    that have each modality: ``of_site`` int64 [S], ``by_site`` int64 [S, M]; ``of_class`` int64 [C], ``by_class`` int64
    [C, M]; ``by_modality`` int64 [M]. Where no sites are known S is 0. A multilabel sample counts in each of its
    classes.
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
        """The pattern of ``present`` (bool [N, M]) for samples with ``labels`` (int64 [N], or zeros and ones [N, C]).

        ``owner`` int64 [N] is the position of each sample's site in ``sites``; without it nothing is counted by site.
        """
        known = () if owner is None else sites
        place = np.zeros(len(present), dtype=np.int64) if owner is None else owner
        sample, label = (np.arange(len(labels)), labels) if labels.ndim == 1 else np.nonzero(labels)
        return cls(
            names=spec.names,
            sites=known,
            classes=spec.classes,
            samples=len(present),
            combinations=_combinations(present, spec.names),
            by_modality=present.sum(axis=0, dtype=np.int64),
            of_site=np.bincount(place, minlength=len(known))[: len(known)],
            by_site=_by(place, present, len(known)),
            of_class=np.bincount(label, minlength=len(spec.classes)),
            by_class=_by(label, present[sample], len(spec.classes)),
        )


def _by(place: IntArray, present: BoolArray, places: int) -> IntArray:
    """int64 [places, M]: how many of the samples at each place (int64 [N]) have each modality."""
    columns = [np.bincount(place[column], minlength=places)[:places] for column in present.T]
    return np.stack(columns, axis=1).astype(np.int64)


def summarise_dataset(dataset: Dataset) -> dict[str, MissingnessSummary]:
    """Split -> pattern of what the data set really has, before any simulated missingness."""
    exists, found = dataset.exists(), {}
    for number, split in enumerate(SPLITS):
        members = dataset.members(number)
        owner = None if dataset.owner is None else dataset.owner[members]
        found[split] = MissingnessSummary.of(
            dataset.spec, dataset.labels[members], exists[members], owner, dataset.sites
        )
    return found


def summarise_allocation(dataset: Dataset, allocation: Allocation) -> dict[str, MissingnessSummary]:
    """Split -> pattern of what the places of a run show of ``dataset``; a sample that comes under several draws of
    masks counts once for each, and the only site of a split that the server scores is ``server``."""
    return {split: _shared(dataset, getattr(allocation, split)) for split in SPLITS}


def _shared(dataset: Dataset, shares: dict[str, Share]) -> MissingnessSummary:
    samples = np.concatenate([share.samples for share in shares.values()])
    present = np.concatenate([share.present for share in shares.values()])
    owner = np.repeat(np.arange(len(shares)), [len(share.samples) for share in shares.values()])
    return MissingnessSummary.of(dataset.spec, dataset.labels[samples], present, owner, tuple(shares))


def _combinations(present: BoolArray, names: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    rows, counts = np.unique(present, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {tuple(compress(names, rows[at])): int(counts[at]) for at in order}

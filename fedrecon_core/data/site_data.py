"""The samples that a site (or an evaluation) can see. Rows of a modality exist only for samples that have it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.types import SPLITS, Batch, DatasetSpec, Rows

SCALED_AT_ONCE = 16 << 20
"""Bytes up to which a modality is scaled as a whole when the site is opened; a larger one is scaled batch by batch. The
results are the same, but a small site then scales only once."""


@dataclass(frozen=True)
class Scaling:
    """``(values - mean) / std``; both tensors have the shape of a modality's features."""

    mean: Tensor
    std: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """[..., *features] -> the same shape."""
        scaled: Tensor = (values - self.mean) / self.std
        return scaled


@dataclass(frozen=True)
class ModalityArray:
    """One modality of a site.

    ``values`` are the stored rows [R, *shape], or with ``offsets`` (int64 [R + 1]) sequences concatenated in time
    [sum of lengths, D]. ``rows`` int64 [N] is the row of each sample, -1 where it is absent. Some rows may belong to no
    sample of the site: those of another split, in a file that is mapped as a whole. ``scaling`` is applied to rows when
    they are taken, so that a file larger than the memory stays on the disk.
    """

    values: Tensor
    rows: Tensor
    offsets: Tensor | None = None
    scaling: Scaling | None = None

    def used_rows(self) -> Tensor:
        """int64: the rows that belong to a sample, ascending, without repeats."""
        rows: Tensor = torch.unique(self.rows[self.rows >= 0])
        return rows

    def stored_values(self, rows: Tensor) -> Tensor:
        """The unscaled values of ``rows`` (int64 [K]): [K, *shape], or concatenated sequences [sum of lengths, D]."""
        if self.offsets is None:
            return self.values[rows]
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        borders = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        inside = torch.arange(int(borders[-1]), device=rows.device)
        return self.values[inside + torch.repeat_interleave(self.offsets[rows] - borders[:-1], lengths)]

    def lengths(self) -> Tensor | None:
        """int64 [N]: the steps of each sample's sequence, 0 where it is absent; None if all sequences are equally
        long, whether or not they are stored with offsets."""
        present = self.rows >= 0
        if self.offsets is None or not present.any():
            return None
        row = self.rows.clamp(min=0)
        lengths = self.offsets[row + 1] - self.offsets[row]
        return lengths * present if len(lengths[present].unique()) > 1 else None

    def scaled(self, scaling: Scaling) -> ModalityArray:
        """The same array with ``scaling``: applied now if the array is small, else to each batch."""
        scaling = Scaling(scaling.mean.to(self.values.device), scaling.std.to(self.values.device))
        if self.values.nbytes <= SCALED_AT_ONCE:
            return replace(self, values=scaling.apply(self.values))
        return replace(self, scaling=scaling)

    def take(self, samples: Tensor) -> Rows:
        """The rows of those of ``samples`` that have the modality, with their positions in ``samples``. Sequences are
        padded with zeros to the longest one."""
        rows = self.rows[samples]
        index = torch.nonzero(rows >= 0).flatten()
        chosen = rows[index]
        if self.offsets is None:
            values = self.values[chosen]
            return Rows(values if self.scaling is None else self.scaling.apply(values), index)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        steps = torch.arange(int(lengths.max()) if len(lengths) else 0, device=lengths.device)
        source = (self.offsets[chosen][:, None] + steps[None, :]).clamp(max=max(len(self.values) - 1, 0))
        if len(self.values):
            values = self.values[source]
        else:
            values = self.values.new_zeros((*source.shape, self.values.shape[-1]))
        if self.scaling is not None:
            values = self.scaling.apply(values)
        return Rows(values * (steps[None, :] < lengths[:, None])[..., None], index, lengths)


@dataclass(frozen=True)
class SiteData:
    """Samples with their presence mask. ``present`` bool [N, M]; ``labels``, ``ids``, ``cluster_ids`` int64 [N]
    (multilabel: ``labels`` [N, C]).

    ``sealed`` is a second set of arrays with the true absent rows. It exists only on request, which only the upper
    bound ``oracle`` makes. No other object gives access to an absent value.
    """

    spec: DatasetSpec
    labels: Tensor
    ids: Tensor
    cluster_ids: Tensor
    present: Tensor
    arrays: dict[str, ModalityArray]
    sealed: dict[str, ModalityArray] | None = None

    def __len__(self) -> int:
        """N, the number of samples."""
        return int(self.labels.shape[0])

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that at least one sample has, in the spec's order."""
        return tuple(name for name in self.spec.names if bool((self.arrays[name].rows >= 0).any()))

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.labels.device

    def having(self, *modalities: str) -> Tensor:
        """int64: the samples that have all of ``modalities``, ascending."""
        mask = torch.ones(len(self), dtype=torch.bool, device=self.device)
        for name in modalities:
            mask &= self.arrays[name].rows >= 0
        return torch.nonzero(mask).flatten()

    def lengths(self) -> Tensor | None:
        """int64 [N]: the steps of a sample's sequences, summed over modalities; None if no modality's lengths
        differ. The result depends on the samples alone, so that a site's batches are the same wherever its data come
        from."""
        known = [lengths for array in self.arrays.values() if (lengths := array.lengths()) is not None]
        return torch.stack(known).sum(dim=0) if known else None

    def batch(self, samples: Tensor) -> Batch:
        """The batch of ``samples`` (int64 [B])."""
        return Batch(
            inputs={name: array.take(samples) for name, array in self.arrays.items()},
            present=self.present[samples],
            labels=self.labels[samples],
            ids=self.ids[samples],
            sealed=None if self.sealed is None else {name: a.take(samples) for name, a in self.sealed.items()},
        )


def open_site(
    dataset: Dataset, samples: IntArray, present: BoolArray, *, device: torch.device, sealed: bool = False
) -> SiteData:
    """Open the site with ``samples`` (int64 [N], repeats allowed) under the presence mask ``present`` (bool [N, M]).

    Only rows that the mask shows are read from the data set's arrays. ``sealed`` copies the hidden rows as well.
    """

    def copy_rows(mask: BoolArray) -> dict[str, ModalityArray]:
        columns = zip(dataset.spec.names, mask.T, strict=True)
        return {name: _copy_rows(dataset, name, samples, shown, device) for name, shown in columns}

    shown = present & (np.stack([dataset.rows[name][samples] for name in dataset.spec.names], axis=1) >= 0)
    arrays, hidden = copy_rows(present), copy_rows(~present) if sealed else None
    return _site_data(dataset, samples, shown, arrays, device, hidden)


def split_samples(dataset: Dataset, split: str, *, keep_empty: bool) -> IntArray:
    """int64 [K]: the samples of ``split`` in a site's own folder; those without any modality only if ``keep_empty``."""
    samples = dataset.members(SPLITS.index(split))
    return samples if keep_empty else samples[dataset.exists()[samples].any(axis=1)]


def open_split(dataset: Dataset, split: str, *, device: torch.device, keep_empty: bool) -> SiteData:
    """All samples of ``split`` in a site's own folder, as ``split_samples`` selects them. On the CPU the arrays stay
    mapped from the disk; on another device the rows of the split are copied."""
    samples = split_samples(dataset, split, keep_empty=keep_empty)
    present = dataset.exists()[samples]
    if device.type != "cpu":
        return open_site(dataset, samples, present, device=device)
    arrays = {}
    for name in dataset.spec.names:
        values, rows = np.asarray(dataset.arrays[name]), dataset.rows[name][samples]
        offsets = torch.from_numpy(dataset.offsets[name]) if name in dataset.offsets else None
        arrays[name] = ModalityArray(torch.from_numpy(values), torch.from_numpy(rows), offsets)
    return _site_data(dataset, samples, present, arrays, device)


def _site_data(
    dataset: Dataset,
    samples: IntArray,
    present: BoolArray,
    arrays: dict[str, ModalityArray],
    device: torch.device,
    sealed: dict[str, ModalityArray] | None = None,
) -> SiteData:
    return SiteData(
        spec=dataset.spec,
        labels=_tensor(dataset.labels[samples], device),
        ids=_tensor(dataset.ids[samples], device),
        cluster_ids=_tensor(dataset.cluster_ids[samples], device),
        present=_tensor(present, device),
        arrays=arrays,
        sealed=sealed,
    )


def _copy_rows(
    dataset: Dataset, modality: str, samples: IntArray, shown: BoolArray, device: torch.device
) -> ModalityArray:
    """The rows of ``samples`` (int64 [N]) in one modality where ``shown`` (bool [N]), copied to ``device``."""
    rows = np.where(shown, dataset.rows[modality][samples], -1)
    kept, inverse = np.unique(rows[rows >= 0], return_inverse=True)
    compact = np.full(len(rows), -1, dtype=np.int64)
    compact[rows >= 0] = inverse
    array, offsets = dataset.arrays[modality], dataset.offsets.get(modality)
    if offsets is None:
        return ModalityArray(_tensor(np.ascontiguousarray(array[kept]), device), _tensor(compact, device))
    pieces = [array[offsets[row] : offsets[row + 1]] for row in kept]
    borders = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    values = np.concatenate(pieces) if pieces else np.zeros((0, *array.shape[1:]), dtype=array.dtype)
    return ModalityArray(_tensor(values, device), _tensor(compact, device), _tensor(borders, device))


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)

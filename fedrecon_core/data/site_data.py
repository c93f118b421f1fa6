"""The samples that one site (or one evaluation) can see: rows of a modality exist only for samples that have it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.types import SPLITS, Batch, DatasetSpec, Rows

SCALED_AT_ONCE = 16 << 20
"""Bytes of a modality up to which it is scaled when the site is opened, and not batch by batch: the numbers are the
same, and a small site then scales once."""


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
    """One modality of a site. ``values`` [R, *shape] as they are stored, or [sum of lengths, D] with ``offsets`` int64
    [R + 1]; ``rows`` int64 [N]: the row of each sample, -1 where it is absent. There may be rows of no sample here:
    those of another split, in a file that is mapped as a whole. ``scaling`` acts on what is taken, so that a file which
    does not fit the memory stays on the disk."""

    values: Tensor
    rows: Tensor
    offsets: Tensor | None = None
    scaling: Scaling | None = None

    def used(self) -> Tensor:
        """int64: the rows that some sample has, ascending, each once."""
        rows: Tensor = torch.unique(self.rows[self.rows >= 0])
        return rows

    def steps(self, rows: Tensor) -> Tensor:
        """The stored values of ``rows`` (int64 [K]): [K, *shape], of sequences one behind the other [sum, D]."""
        if self.offsets is None:
            return self.values[rows]
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        borders = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        inside = torch.arange(int(borders[-1]), device=rows.device)
        return self.values[inside + torch.repeat_interleave(self.offsets[rows] - borders[:-1], lengths)]

    def lengths(self) -> Tensor | None:
        """int64 [N]: the steps of each sample's sequence, 0 where it is absent; None where those that are there are
        equally long, whether or not they are stored with borders."""
        there = self.rows >= 0
        if self.offsets is None or not there.any():
            return None
        row = self.rows.clamp(min=0)
        lengths = self.offsets[row + 1] - self.offsets[row]
        return lengths * there if len(lengths[there].unique()) > 1 else None

    def scaled(self, scaling: Scaling) -> ModalityArray:
        """The same with ``scaling``: done once where the values are few, else to each batch as it is taken."""
        scaling = Scaling(scaling.mean.to(self.values.device), scaling.std.to(self.values.device))
        if self.values.nbytes <= SCALED_AT_ONCE:
            return replace(self, values=scaling.apply(self.values))
        return replace(self, scaling=scaling)

    def take(self, samples: Tensor) -> Rows:
        """The rows of those of ``samples`` that have the modality, with their position in ``samples``."""
        rows = self.rows[samples]
        index = torch.nonzero(rows >= 0).flatten()
        chosen = rows[index]
        if self.offsets is None:
            return Rows(self._scaled(self.values[chosen]), index)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        return Rows(self._padded(chosen, lengths), index, lengths)

    def _padded(self, chosen: Tensor, lengths: Tensor) -> Tensor:
        """[R, longest, D]: the chosen sequences, zeros behind their ends."""
        assert self.offsets is not None
        longest = int(lengths.max()) if len(lengths) else 0
        steps = torch.arange(longest, device=lengths.device)
        inside = steps[None, :] < lengths[:, None]
        source = (self.offsets[chosen][:, None] + steps[None, :]).clamp(max=max(len(self.values) - 1, 0))
        values = (
            self.values[source] if len(self.values) else self.values.new_zeros((*source.shape, self.values.shape[-1]))
        )
        return self._scaled(values) * inside[..., None]

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self.scaling is None else self.scaling.apply(values)


@dataclass(frozen=True)
class SiteData:
    """Samples with their presence mask. ``present`` bool [N, M]; ``labels``, ``ids``, ``cluster_ids`` int64 [N]
    (multilabel: ``labels`` [N, C]).

    ``sealed`` is a second set of columns with the true absent rows. It exists only when it was asked for, which only
    the bound ``oracle`` does; no other object leads to an absent value.
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
        """The modalities that some sample has, in the spec's order."""
        return tuple(name for name in self.spec.names if bool((self.arrays[name].rows >= 0).any()))

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.labels.device

    def having(self, *modalities: str) -> Tensor:
        """int64: the samples that have all of ``modalities``, ascending."""
        mask = torch.ones(len(self), dtype=torch.bool, device=self.device)
        for name in modalities:
            mask &= self.arrays[name].rows >= 0
        return torch.nonzero(mask).flatten()

    def lengths(self) -> Tensor | None:
        """int64 [N]: the steps of all of a sample's sequences together; None where no modality's lengths differ. It
        follows from the samples alone, so that a site's batches are the same wherever its data come from."""
        known = [lengths for column in self.arrays.values() if (lengths := column.lengths()) is not None]
        return torch.stack(known).sum(dim=0) if known else None

    def batch(self, samples: Tensor) -> Batch:
        """The batch of ``samples`` (int64 [B])."""
        return Batch(
            inputs={name: column.take(samples) for name, column in self.arrays.items()},
            present=self.present[samples],
            labels=self.labels[samples],
            ids=self.ids[samples],
            sealed=None if self.sealed is None else {name: c.take(samples) for name, c in self.sealed.items()},
        )


def open_site(
    dataset: Dataset, samples: IntArray, present: BoolArray, *, device: torch.device, sealed: bool = False
) -> SiteData:
    """The site that holds ``samples`` (int64 [N], repeats allowed) under the presence mask ``present`` (bool [N, M]).

    Only rows that the mask shows are read from the data set's arrays. ``sealed`` copies the hidden rows as well.
    """
    visible = {m: _column(dataset, m, samples, present[:, i], device) for i, m in enumerate(dataset.spec.names)}
    hidden = None
    if sealed:
        hidden = {m: _column(dataset, m, samples, ~present[:, i], device) for i, m in enumerate(dataset.spec.names)}
    return SiteData(
        spec=dataset.spec,
        labels=_tensor(dataset.labels[samples], device),
        ids=_tensor(dataset.ids[samples], device),
        cluster_ids=_tensor(dataset.cluster_ids[samples], device),
        present=_tensor(np.stack([_numpy(visible[m].rows) >= 0 for m in dataset.spec.names], axis=1), device),
        arrays=visible,
        sealed=hidden,
    )


def own_samples(dataset: Dataset, split: str, *, keep_empty: bool) -> IntArray:
    """int64 [K]: the samples of ``split`` in a site's own folder, without those that have nothing unless
    ``keep_empty``."""
    samples = dataset.members(SPLITS.index(split))
    return samples if keep_empty else samples[dataset.exists()[samples].any(axis=1)]


def own_site(dataset: Dataset, split: str, *, device: torch.device, keep_empty: bool) -> SiteData:
    """All samples of ``split`` in a site's own folder. On the CPU the arrays stay mapped from the disk, elsewhere the
    split's rows are copied; samples that have nothing are left out unless ``keep_empty``."""
    kept, exists = own_samples(dataset, split, keep_empty=keep_empty), dataset.exists()
    if device.type != "cpu":
        return open_site(dataset, kept, exists[kept], device=device)
    return SiteData(
        spec=dataset.spec,
        labels=_tensor(dataset.labels[kept], device),
        ids=_tensor(dataset.ids[kept], device),
        cluster_ids=_tensor(dataset.cluster_ids[kept], device),
        present=_tensor(exists[kept], device),
        arrays={m: _whole_column(dataset, m, kept) for m in dataset.spec.names},
    )


def _whole_column(dataset: Dataset, modality: str, samples: IntArray) -> ModalityArray:
    offsets = dataset.offsets.get(modality)
    return ModalityArray(
        torch.from_numpy(np.asarray(dataset.arrays[modality])),
        torch.from_numpy(dataset.rows[modality][samples]),
        None if offsets is None else torch.from_numpy(offsets),
    )


def _column(
    dataset: Dataset, modality: str, samples: IntArray, shown: BoolArray, device: torch.device
) -> ModalityArray:
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


def _numpy(tensor: Tensor) -> NDArray[np.int64]:
    array: NDArray[np.int64] = tensor.cpu().numpy()
    return array

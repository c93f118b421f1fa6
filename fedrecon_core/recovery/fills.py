"""Fills of a whole site, computed once per stage if they fit into memory: the generators are frozen by then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core.data.site_data import SiteData
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec, Rows

CHUNK = 512
CHUNK_BYTES = 64 << 20
"""Maximum number of samples, and of their bytes, that are encoded or filled at once."""
CACHE_BYTES = 1 << 30
"""Maximum number of bytes of fills that a site caches."""
NO_CACHE = -1
"""With this limit, fills are always computed per batch, even at a site whose samples lack nothing."""

Recover = Callable[[Batch], Sequence[Fill]]


@dataclass(frozen=True)
class StoredFill:
    """The fills of one modality and slot for a whole site; ``rows`` int64 [N] is each sample's row, or -1."""

    modality: str
    slot: str
    values: Tensor
    lengths: Tensor | None
    weight: Tensor
    rows: Tensor
    synthetic: bool

    @classmethod
    def of(cls, parts: list[tuple[Tensor, Fill]], size: int) -> StoredFill:
        """Join the fills of all chunks of a site with ``size`` samples; each comes with its samples' positions.
        Sequences are padded at their ends to the longest chunk."""
        first = parts[0][1]
        samples = torch.cat([places for places, _ in parts])
        rows = torch.full((size,), -1, dtype=torch.long, device=samples.device)
        rows[samples] = torch.arange(len(samples), device=samples.device)
        values = [fill.rows.values for _, fill in parts]
        longest = max(value.shape[1] for value in values)
        if any(value.shape[1] != longest for value in values):
            values = [F.pad(value, (0, 0, 0, longest - value.shape[1])) for value in values]
        lengths = [fill.rows.lengths for _, fill in parts if fill.rows.lengths is not None]
        return cls(
            modality=first.modality,
            slot=first.slot,
            values=torch.cat(values),
            lengths=torch.cat(lengths) if lengths else None,
            weight=torch.cat([fill.weight for _, fill in parts]),
            rows=rows,
            synthetic=first.synthetic,
        )

    def take(self, samples: Tensor) -> Fill:
        """The fill of those ``samples`` that have one."""
        rows = self.rows[samples]
        index = torch.nonzero(rows >= 0).flatten()
        chosen = rows[index]
        lengths = None if self.lengths is None else self.lengths[chosen]
        return Fill(
            self.modality, self.slot, Rows(self.values[chosen], index, lengths), self.weight[chosen], self.synthetic
        )


def chunk_of(spec: DatasetSpec) -> int:
    """Number of samples that are encoded or filled at once. It depends on the specification alone, so that it is the
    same at every site and on every engine."""
    sample = sum(4 * math.prod(modality.shape) for modality in spec.modalities)
    return max(1, min(CHUNK, CHUNK_BYTES // sample))


def chunks(count: int, device: torch.device, size: int = CHUNK) -> Iterator[Tensor]:
    """Split ``count`` samples into int64 index ranges, in order."""
    return iter(torch.arange(count, device=device).split(size))


class SiteFills:
    """The fills that ``recover`` makes for ``data`` during one stage.

    ``filled``: modality -> bool [N], the samples with a fill of it. ``stored`` is the cache of all fills if they take
    at most ``limit`` bytes. Otherwise it is None, and the fills are computed for each batch, so that a site may lack
    more data than fits into its memory.
    """

    def __init__(self, recover: Recover, data: SiteData, limit: int = CACHE_BYTES) -> None:
        self.filled: dict[str, Tensor] = {}
        self.stored: list[StoredFill] | None = None
        self._recover = recover
        parts: dict[tuple[str, str], list[tuple[Tensor, Fill]]] = {}
        room = limit
        with torch.no_grad():
            for samples in chunks(len(data), data.device, chunk_of(data.spec)):
                for fill in recover(data.batch(samples)):
                    places = samples[fill.rows.index]
                    if fill.modality not in self.filled:
                        self.filled[fill.modality] = torch.zeros(len(data), dtype=torch.bool, device=places.device)
                    self.filled[fill.modality][places] = True
                    room -= fill.rows.values.nbytes
                    if room >= 0 and len(places):
                        parts.setdefault((fill.modality, fill.slot), []).append((places, fill))
                if room < 0:
                    parts.clear()
        if room >= 0:
            self.stored = [StoredFill.of(parts.pop(key), len(data)) for key in list(parts)]  # pop frees memory early

    def of(self, index: Tensor, batch: Batch) -> list[Fill]:
        """The fills of ``batch``, whose samples are ``index`` (int64 [B])."""
        if self.stored is not None:
            return [fill.take(index) for fill in self.stored]
        with torch.no_grad():
            return list(self._recover(batch))

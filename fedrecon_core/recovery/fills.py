"""Fills of a whole site, made once per stage where they fit the memory: the generators are frozen by then."""

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
"""Samples that are encoded or filled at once, and their bytes: enough for speed, small enough for memory."""
KEPT = 1 << 30
"""Bytes of fills that a site keeps."""
NONE_KEPT = -1
"""The limit at which each batch is filled as it is given, even where the site's own samples lack nothing."""

Recover = Callable[[Batch], Sequence[Fill]]


@dataclass(frozen=True)
class StoredFill:
    """The fills of one modality and slot for a whole site; ``rows`` int64 [N] as in a column."""

    modality: str
    slot: str
    values: Tensor
    lengths: Tensor | None
    weight: Tensor
    rows: Tensor
    synthetic: bool

    def take(self, samples: Tensor) -> Fill:
        """The fill of those of ``samples`` that have one."""
        rows = self.rows[samples]
        index = torch.nonzero(rows >= 0).flatten()
        chosen = rows[index]
        lengths = None if self.lengths is None else self.lengths[chosen]
        return Fill(
            self.modality, self.slot, Rows(self.values[chosen], index, lengths), self.weight[chosen], self.synthetic
        )


def chunk_of(spec: DatasetSpec) -> int:
    """How many samples of a data set are encoded or filled at once; it hangs on the specification alone, so that every
    site and engine does the same."""
    sample = sum(4 * math.prod(modality.shape) for modality in spec.modalities)
    return max(1, min(CHUNK, CHUNK_BYTES // sample))


def chunks(count: int, device: torch.device, size: int = CHUNK) -> Iterator[Tensor]:
    """int64 index ranges that cover ``count`` samples in order."""
    return iter(torch.arange(count, device=device).split(size))


class SiteFills:
    """What ``recover`` puts into the gaps of ``data``, for one stage.

    ``seen`` is modality -> bool [N], the samples that have a fill of it. The fills are kept in memory while they take
    at most ``limit`` bytes; beyond it they are made anew for each batch, so that a site may lack more than its memory
    holds.
    """

    def __init__(self, recover: Recover, data: SiteData, limit: int = KEPT) -> None:
        self._recover = recover
        self.seen: dict[str, Tensor] = {}
        self._stored: list[StoredFill] | None = None
        parts: dict[tuple[str, str], list[tuple[Tensor, Fill]]] = {}
        room = limit
        with torch.no_grad():
            for samples in chunks(len(data), data.device, chunk_of(data.spec)):
                for fill in recover(data.batch(samples)):
                    places = samples[fill.rows.index]
                    self._mark(fill.modality, places, len(data))
                    room -= fill.rows.values.nbytes
                    if room >= 0 and len(places):
                        parts.setdefault((fill.modality, fill.slot), []).append((places, fill))
                if room < 0:
                    parts.clear()
        if room >= 0:
            self._stored = [_stored(parts.pop(key), len(data)) for key in list(parts)]

    def _mark(self, modality: str, places: Tensor, count: int) -> None:
        if modality not in self.seen:
            self.seen[modality] = torch.zeros(count, dtype=torch.bool, device=places.device)
        self.seen[modality][places] = True

    def of(self, index: Tensor, batch: Batch) -> list[Fill]:
        """The fills of ``batch``, which holds the samples ``index`` (int64 [B])."""
        if self._stored is not None:
            return [fill.take(index) for fill in self._stored]
        with torch.no_grad():
            return list(self._recover(batch))


def _together(parts: list[Tensor]) -> Tensor:
    """The rows of all chunks; sequences are padded to the longest chunk, behind their ends."""
    longest = max(part.shape[1] for part in parts)
    if any(part.shape[1] != longest for part in parts):
        parts = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(parts)


def _stored(found: list[tuple[Tensor, Fill]], size: int) -> StoredFill:
    first = found[0][1]
    samples = torch.cat([places for places, _ in found])
    rows = torch.full((size,), -1, dtype=torch.long, device=samples.device)
    rows[samples] = torch.arange(len(samples), device=samples.device)
    lengths = [fill.rows.lengths for _, fill in found if fill.rows.lengths is not None]
    return StoredFill(
        modality=first.modality,
        slot=first.slot,
        values=_together([fill.rows.values for _, fill in found]),
        lengths=torch.cat(lengths) if lengths else None,
        weight=torch.cat([fill.weight for _, fill in found]),
        rows=rows,
        synthetic=first.synthetic,
    )

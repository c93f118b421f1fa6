"""Fills of a whole site, made once per stage: the generators are frozen by then, so no batch makes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core.data.site import SiteData
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, Rows

CHUNK = 512
"""Samples that are filled at once: large enough for speed, small enough for memory."""


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


def chunks(count: int, device: torch.device, size: int = CHUNK) -> Iterator[Tensor]:
    """int64 index ranges that cover ``count`` samples in order."""
    return iter(torch.arange(count, device=device).split(size))


def store_fills(recover: Callable[[Batch], Sequence[Fill]], data: SiteData) -> list[StoredFill]:
    """Run ``recover`` over all samples of ``data`` without gradients and keep what it made."""
    parts: dict[tuple[str, str], list[tuple[Tensor, Fill]]] = {}
    with torch.no_grad():
        for samples in chunks(len(data), data.device):
            for fill in recover(data.batch(samples)):
                if len(fill.rows.index):
                    parts.setdefault((fill.modality, fill.slot), []).append((samples[fill.rows.index], fill))
    return [_stored(found, len(data)) for found in parts.values()]


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

"""Tokens of a batch: the extractors' outputs for present and filled rows, with their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedrecon_core.types import Batch, Rows


@dataclass(frozen=True)
class Fill:
    """Values from a recovery for a modality that is absent (or, with ``reconstruct: all``, present).

    ``slot`` distinguishes several reconstructions of one modality ("global", "local"); ``rows`` as in a batch;
    ``weight`` float [R] multiplies the token's attention, and 0 hides it; ``synthetic`` is false for plain fills that
    count as real input.
    """

    modality: str
    slot: str
    rows: Rows
    weight: Tensor
    synthetic: bool = True


@dataclass(frozen=True)
class Tokens:
    """All tokens of B samples, in S places: ``values`` [B, S, D]; ``mask`` bool [B, S]; ``log_weight`` [B, S];
    ``modality`` int64 [S], the modality's number at each place; ``synthetic`` bool [S]."""

    values: Tensor
    mask: Tensor
    log_weight: Tensor
    modality: Tensor
    synthetic: Tensor

    def of(self, columns: Collection[int]) -> Tokens:
        """The tokens of the modalities ``columns`` alone: the others are masked, and all places are kept."""
        kept = torch.tensor(sorted(columns), dtype=torch.long, device=self.modality.device)
        return replace(self, mask=self.mask & torch.isin(self.modality, kept))


@dataclass(frozen=True)
class _Source:
    """Rows for one extractor, with the properties of their tokens."""

    column: int
    rows: Rows
    log_weight: Tensor | None
    synthetic: bool


def tokenise(extractors: dict[str, nn.Module], names: Sequence[str], batch: Batch, fills: Iterable[Fill]) -> Tokens:
    """Run every extractor once on present and filled rows, and arrange the tokens by sample.

    A modality without an extractor gives no token.
    """
    sources: dict[str, list[_Source]] = {name: [] for name in names if name in extractors}
    for column, name in enumerate(names):
        if name in sources and len(batch.inputs[name].index):
            sources[name].append(_Source(column, batch.inputs[name], None, False))
    for fill in fills:
        if fill.modality in sources and len(fill.rows.index):
            column = names.index(fill.modality)
            sources[fill.modality].append(_Source(column, fill.rows, fill.weight.log(), fill.synthetic))
    blocks = []
    for name, group in sources.items():
        extractor = extractors[name]
        if len(group) > 1 and all(source.rows.lengths is None for source in group):  # one pass for one fixed shape
            tokens, _ = extractor(torch.cat([source.rows.values for source in group]), None)
            parts = tokens.split([len(source.rows.index) for source in group])
            blocks += [_placed(part, None, source, batch) for part, source in zip(parts, group, strict=True)]
        else:
            for source in group:
                tokens, mask = extractor(source.rows.values, source.rows.lengths)
                blocks.append(_placed(tokens, mask, source, batch))
    if not blocks:  # no places; nothing reads the width then
        empty = torch.zeros(batch.size, 0, device=batch.device)
        places = torch.zeros(0, dtype=torch.long, device=batch.device)
        return Tokens(empty[..., None], empty.bool(), empty, places, places.bool())
    return Tokens(
        values=torch.cat([block.values for block in blocks], dim=1),
        mask=torch.cat([block.mask for block in blocks], dim=1),
        log_weight=torch.cat([block.log_weight for block in blocks], dim=1),
        modality=torch.cat([block.modality for block in blocks]),
        synthetic=torch.cat([block.synthetic for block in blocks]),
    )


def _placed(tokens: Tensor, mask: Tensor | None, source: _Source, batch: Batch) -> Tokens:
    """Put the rows' tokens [R, T, D] at their samples: [B, T, D]."""
    rows, steps, _ = tokens.shape
    index, size = source.rows.index, batch.size
    real = torch.ones(rows, steps, dtype=torch.bool, device=tokens.device) if mask is None else mask
    weight = tokens.new_zeros(size, steps)
    if source.log_weight is not None:
        real = real & torch.isfinite(source.log_weight)[:, None]
        weight = weight.index_copy(0, index, source.log_weight[:, None].expand(rows, steps).to(tokens.dtype))
    return Tokens(
        values=_scattered(tokens, index, size),
        mask=_scattered(real, index, size),
        log_weight=weight,
        modality=torch.full((steps,), source.column, device=tokens.device),
        synthetic=torch.full((steps,), source.synthetic, dtype=torch.bool, device=tokens.device),
    )


def _scattered(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """[R, ...] -> [size, ...] with zeros at other samples; rows of all samples in order are returned as they are."""
    if len(rows) == size and torch.equal(index, torch.arange(size, device=index.device)):
        return rows
    return rows.new_zeros(size, *rows.shape[1:]).index_copy(0, index, rows)

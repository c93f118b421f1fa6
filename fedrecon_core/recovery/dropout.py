"""Modality dropout: in training, modalities that a sample shows are hidden at random, so that samples which show
several teach the model to do with each of them alone (Neverova et al., ModDrop, arXiv 1501.00102)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core.config import Params
from fedrecon_core.types import Batch, Rows


class DropoutParams(Params):
    """``modality_dropout``: the probability with which the task stage hides each modality that a sample shows, anew in
    every batch; one always stays. Generators and mappings learn from all that is there."""

    modality_dropout: float = Field(default=0.0, ge=0, lt=1)


def drop_modalities(batch: Batch, names: Sequence[str], rate: float) -> Batch:
    """The batch without what is hidden; ``names`` are the modalities in the order of its mask's columns."""
    present = kept_modalities(batch.present, rate)
    columns = dict(zip(names, present.unbind(dim=1), strict=True))
    inputs = {name: _kept(rows, columns[name][rows.index]) for name, rows in batch.inputs.items()}
    return replace(batch, inputs=inputs, present=present)


def kept_modalities(present: Tensor, rate: float) -> Tensor:
    """bool [B, M]: what is left of ``present`` where each modality of each sample is hidden with probability ``rate``;
    of a sample that would lose all, one stays, each with the same chance. Drawn from PyTorch's global generator on the
    CPU, the same on every device."""
    draws = torch.rand(present.shape).to(present.device).masked_fill(~present, -1)
    kept, highest = draws >= rate, F.one_hot(draws.argmax(dim=1), present.shape[1]).bool()
    return kept | (highest & present & ~kept.any(dim=1, keepdim=True))


def _kept(rows: Rows, kept: Tensor) -> Rows:
    lengths = None if rows.lengths is None else rows.lengths[kept]
    return Rows(rows.values[kept], rows.index[kept], lengths)

"""``mask``: absent modalities give no token at all. The baseline that every reconstruction has to beat."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import Batch, Rows


class MaskParams(Params):
    """``dropout``: with this probability a modality that a training sample shows is hidden, anew in every batch, so
    that samples which show several teach the model to read each of them alone."""

    name: str = "mask"
    dropout: float = Field(default=0.0, ge=0, lt=1)


@RECOVERIES.register("mask")
class Mask(Recovery):
    """Attention over present modalities only; a site trains and uploads the extractors of what it has."""

    Params = MaskParams

    def learnt_from(self, batch: Batch) -> Batch:
        """The batch without what ``dropout`` hides, drawn from the stage's stream."""
        if not self.params.dropout:
            return batch
        present = kept_modalities(batch.present, self.params.dropout)
        columns = dict(zip(self.spec.names, present.unbind(dim=1), strict=True))
        inputs = {name: _kept(rows, columns[name][rows.index]) for name, rows in batch.inputs.items()}
        return replace(batch, inputs=inputs, present=present)


def kept_modalities(present: Tensor, rate: float) -> Tensor:
    """bool [B, M]: what is left of ``present`` where each modality of each sample is hidden with probability ``rate``,
    but of a sample that would lose all the one that was drawn last stays (modality dropout: Neverova et al., ModDrop,
    2016, section 4.2). Drawn from PyTorch's global generator on the CPU, the same on every device."""
    draws = torch.rand(present.shape).to(present.device).masked_fill(~present, -1)
    last = torch.nn.functional.one_hot(draws.argmax(dim=1), present.shape[1]).bool()
    kept = draws >= rate
    return kept | (last & present & ~kept.any(dim=1, keepdim=True))


def _kept(rows: Rows, kept: Tensor) -> Rows:
    lengths = None if rows.lengths is None else rows.lengths[kept]
    return Rows(rows.values[kept], rows.index[kept], lengths)

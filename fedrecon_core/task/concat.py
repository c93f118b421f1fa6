"""Concatenation: the fusion of the paper's ablation, one vector per modality, zeros for an absent one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import FUSIONS
from fedrecon_core.task.model import Fusion, FusionShape
from fedrecon_core.task.tokens import Tokens


class ConcatParams(Params):
    """This fusion has no keys."""

    name: str = "concat"


@FUSIONS.register("concat")
class Concat(Fusion):
    """The weighted means of each modality's tokens, concatenated."""

    Params = ConcatParams

    def __init__(self, params: Any, shape: FusionShape) -> None:
        super().__init__(params, shape)
        if shape.learned_weight is not None:
            raise ConfigError("recovery.weighting: 'learned' needs task.fusion: attention, found concat; use 'fixed'")
        self.modalities = shape.modalities
        self.outputs = shape.modalities * shape.width

    def forward(self, tokens: Tokens) -> Tensor:
        """[B, modalities * width]."""
        size, places = tokens.mask.shape
        if places == 0:
            return tokens.values.new_zeros(size, self.outputs)
        weight = tokens.log_weight.exp() * tokens.mask
        member = torch.nn.functional.one_hot(tokens.modality, self.modalities).to(weight.dtype)
        sums = torch.einsum("bs,sm,bsd->bmd", weight, member, tokens.values)
        return (sums / (weight @ member).clamp(min=1e-12)[..., None]).flatten(1)

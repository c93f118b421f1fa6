"""Half the time steps: the larger of two neighbours, ReLU and dropout in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Halving(nn.Module):
    """``MaxPool1d(2)``, ReLU and ``Dropout``, and the same numbers; at an odd end the last step stands alone.

    The three libraries' operations take as long as the convolution before them: the pooling writes down 64-bit places,
    and dropout's Bernoulli numbers cost more than uniform ones.
    """

    def __init__(self, dropout: float) -> None:
        """``dropout``: the share of the values that is set to zero in training."""
        super().__init__()
        self.dropout = dropout

    def forward(self, values: Tensor) -> Tensor:
        """[R, C, T] -> [R, C, ceil(T / 2)]."""
        if values.shape[-1] % 2:
            values = F.pad(values, (0, 1))  # a zero changes nothing before a ReLU
        halved: Tensor = _Halve.apply(values, self.dropout if self.training else 0.0)  # type: ignore[no-untyped-call]
        return halved


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dropout: float) -> Tensor:
        left, right = values[..., ::2], values[..., 1::2]
        larger = torch.maximum(left, right)
        kept = larger > 0
        if dropout:
            kept &= torch.rand_like(larger) >= dropout
        ctx.save_for_backward(kept, left >= right)
        ctx.scale = 1 / (1 - dropout)
        return larger.mul_(kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        kept, is_left = ctx.saved_tensors
        passed = gradients[0] * kept * ctx.scale
        found = passed.new_empty(*passed.shape, 2)
        left = torch.mul(passed, is_left, out=found[..., 0])
        torch.sub(passed, left, out=found[..., 1])
        return found.flatten(-2), None

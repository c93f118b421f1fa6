"""Max pooling of two neighbouring time steps, ReLU and dropout in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Halving(nn.Module):
    """The same numbers as ``MaxPool1d(2)``, ReLU and ``Dropout``; with an odd length the last step is kept alone.

    The library's three operations take as long as the convolution before them: pooling writes 64-bit positions, and
    dropout's Bernoulli numbers cost more than uniform ones. Channels come last here: then neighbours in time are whole
    rows, which a CPU compares many numbers at a time.
    """

    def __init__(self, dropout: float) -> None:
        """``dropout``: the share of the values that is set to zero in training."""
        super().__init__()
        self.dropout = dropout

    def forward(self, values: Tensor) -> Tensor:
        """[R, T, C] -> [R, ceil(T / 2), C]."""
        if values.shape[1] % 2:
            values = F.pad(values, (0, 0, 0, 1))  # a zero changes nothing before a ReLU
        halved: Tensor = _Halve.apply(values, self.dropout if self.training else 0.0)  # type: ignore[no-untyped-call]
        return halved


class _Halve(torch.autograd.Function):
    """Masks are 0 and 1 in the type of the values: a CPU multiplies these directly, but converts bool one by one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dropout: float) -> Tensor:
        left, right = values[:, ::2], values[:, 1::2]
        larger = torch.maximum(left, right)
        if not ctx.needs_input_grad[0] and not dropout:
            return larger.relu_()
        passing = torch.gt(larger, 0, out=torch.empty_like(larger))
        if dropout:
            passing.mul_(_kept(larger, dropout)).mul_(1 / (1 - dropout))
        ctx.save_for_backward(passing, torch.ge(left, right, out=torch.empty_like(larger)))
        return larger.mul_(passing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        passing, is_left = ctx.saved_tensors
        passed = gradients[0] * passing
        rows, steps, channels = passed.shape
        found = passed.new_empty(rows, steps, 2, channels)
        left = torch.mul(passed, is_left, out=found[:, :, 0])
        torch.sub(passed, left, out=found[:, :, 1])
        return found.flatten(1, 2), None


def _kept(values: Tensor, dropout: float) -> Tensor:
    """0 for a share ``dropout`` of ``values`` [R, T, C], 1 for the others. They are drawn in the order [R, C, T], in
    which the library's convolutions store the values."""
    rows, steps, channels = values.shape
    drawn = torch.rand(rows, channels, steps, dtype=values.dtype, device=values.device)
    return drawn.ge_(dropout).transpose(1, 2)

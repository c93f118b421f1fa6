"""The recurrent extractor of the FedMultimodal benchmark (Feng et al. 2023): convolutions, then a GRU over time.

Its two costly operations are written by hand and give the same numbers as PyTorch's in less time. On a CPU the
library's GRU spends most of a small batch's time in one matrix product and a dozen small operations per step and gate,
forwards and backwards. In ``GRU`` a backward step is one product and four operations: everything that does not depend
on the next step is computed for all steps at once, and so are the gradients of the weights. ``Halving`` is max pooling
of two neighboring time steps, ReLU and dropout in one operation.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fedrecon_core.modalities.base import length_mask
from fedrecon_core.types import ModalitySpec, StrictModel, Widths


class Recurrent(StrictModel):
    """``convolutions``: the channels of each, which also halves the time axis; without any there is only the GRU.
    ``dropout`` follows each of them."""

    convolutions: Widths = (32, 64, 128)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class RecurrentExtractor(nn.Module):
    """One token per remaining time step: the GRU's hidden state, as wide as a token.

    A GRU reads forwards, so padding after a sequence's end never affects the steps before it.
    """

    def __init__(self, spec: ModalitySpec, params: Recurrent, width: int) -> None:
        super().__init__()
        channels = (spec.shape[1], *params.convolutions)
        self.convolutions = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in pairwise(channels))
        self.halving = Halving(params.dropout)
        self.gru = GRU(channels[-1], width)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[R, T, D] -> tokens [R, T', width] and, for variable lengths, their mask [R, T']."""
        hidden = values
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            # Computed as a convolution of images of height 1: PyTorch accepts these with channels last, but would
            # transpose a sequence before a convolution and back after it.
            images, weight = _masked(hidden, lengths).transpose(1, 2).unsqueeze(2), convolution.weight.unsqueeze(2)
            convolved = F.conv2d(images, weight, convolution.bias, padding=(0, convolution.kernel_size[0] // 2))
            hidden = self.halving(_masked(convolved.squeeze(2).transpose(1, 2), lengths))
            lengths = None if lengths is None else (lengths + 1) // 2
        tokens: Tensor = self.gru(hidden)
        return tokens, None if lengths is None else length_mask(lengths, tokens.shape[1])


def _masked(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """[R, T, C] with zeros after the ends, since a convolution would carry padding into the sequences."""
    return hidden if lengths is None else hidden * length_mask(lengths, hidden.shape[1])[:, :, None]


class Halving(nn.Module):
    """The same numbers as ``MaxPool1d(2)``, ReLU and ``Dropout``; with an odd length the last step is kept alone.

    The library's three operations take as long as the convolution before them: pooling writes 64-bit positions, and
    dropout's Bernoulli numbers cost more than uniform ones. Channels come last here: then neighbors in time are whole
    rows, of which a CPU compares many numbers at a time.
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


class GRU(nn.GRU):
    """One layer, one direction, ``batch_first``, on the CPU and elsewhere; parameters as in ``torch.nn.GRU``."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:  # type: ignore[override]
        """[R, T, inputs] -> the hidden state after each step [R, T, hidden], from zero."""
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        steps: Tensor = _Steps.apply(values, *weights)  # type: ignore[no-untyped-call]
        return steps


class _Steps(torch.autograd.Function):
    """r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h + b_hn)),
    h' = (1 - z) n + z h (Cho et al. 2014, in the form of ``torch.nn.GRU``). Inside, time comes first."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, w_in: Tensor, w_hidden: Tensor, b_in: Tensor, b_hidden: Tensor) -> Tensor:
        rows, steps, inputs = values.shape
        width = w_hidden.shape[1]
        two = 2 * width
        flat = values.transpose(0, 1).reshape(steps * rows, inputs)
        gates = torch.addmm(b_in[:two] + b_hidden[:two], flat, w_in[:two].t()).view(steps, rows, two)
        # Twice the input of n, whose tanh(x) is computed as 2 sigmoid(2x) - 1: a third of the time on a CPU, with an
        # error below 2e-7 in float32, as a matrix product has anyway.
        new = torch.addmm(2 * b_in[two:], flat, (2 * w_in[two:]).t()).view(steps, rows, width)
        hidden = values.new_empty(steps + 1, rows, width)
        hidden[0] = 0
        # Without a gradient, every step may overwrite what the previous step recalled.
        recalled = torch.empty_like(new) if any(ctx.needs_input_grad) else torch.empty_like(new[:1]).expand_as(new)
        _run(hidden, gates, new, recalled, (w_hidden[:two].t(), (2 * w_hidden[two:]).t(), 2 * b_hidden[two:]))
        ctx.save_for_backward(flat, w_in, w_hidden, hidden, gates, new, recalled)
        return hidden[1:].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, w_in, w_hidden, hidden, gates, new, recalled = ctx.saved_tensors
        steps, rows, width = new.shape
        # [T, R, 4, H]: derivatives of h' with respect to r, z, W_hn h + b_hn and the input of n, each before its own
        # non-linearity
        reset, update = gates[..., :width], gates[..., width:]
        slopes = new.new_empty(steps, rows, 4, width)
        of_new = torch.mul(1 - new * new, 1 - update, out=slopes[:, :, 3])
        torch.mul(of_new, reset, out=slopes[:, :, 2])
        torch.mul(of_new, (recalled * reset).mul_(0.5 - 0.5 * reset), out=slopes[:, :, 0])
        torch.mul(hidden[:-1] - new, update * (1 - update), out=slopes[:, :, 1])
        # turn them into gradients of the loss: multiply each step's with the gradient of its h', which flows back
        # from step to step
        gradient = gradients[0].transpose(0, 1).contiguous()
        carried = torch.zeros_like(gradient[0])
        parts = (gradient, slopes, update.contiguous())
        for outer, slope, z in zip(*(reversed(part.unbind(0)) for part in parts), strict=True):
            outer.add_(carried)
            slope.mul_(outer[:, None])
            torch.mul(outer, z, out=carried).addmm_(slope[:, :3].flatten(1), w_hidden)
        every = slopes.view(steps * rows, 4 * width)
        of_hidden = every[:, : 3 * width]
        of_given = torch.cat([every[:, : 2 * width], every[:, 3 * width :]], dim=1)
        sums = every.sum(dim=0)
        return (
            (of_given @ w_in).view(steps, rows, -1).transpose(0, 1) if ctx.needs_input_grad[0] else None,
            of_given.t() @ flat,
            of_hidden.t() @ hidden[:-1].reshape(steps * rows, width),
            torch.cat([sums[: 2 * width], sums[3 * width :]]),
            sums[: 3 * width],
        )


def _run(
    hidden: Tensor, gates: Tensor, new: Tensor, recalled: Tensor, recurrent: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill ``hidden`` [T + 1, R, H] from its first step on. ``gates`` [T, R, 2H] and ``new`` [T, R, H] contain the part
    of the input (``new`` twice that) and become r, z and n; ``recalled`` becomes 2 (W_hn h + b_hn)."""
    of_gates, of_new, bias = recurrent
    width, less = new.shape[-1], new.new_full((), -1)
    reset, update = gates[..., :width].unbind(0), gates[..., width:].unbind(0)
    parts = (hidden[:-1], hidden[1:], gates, new, recalled)
    for before, after, gate, n, recall, r, z in zip(*(part.unbind(0) for part in parts), reset, update, strict=True):
        gate.addmm_(before, of_gates).sigmoid_()
        torch.addmm(bias, before, of_new, out=recall)
        n.addcmul_(r, recall).sigmoid_()
        torch.add(less, n, alpha=2, out=n)
        torch.lerp(n, before, z, out=after)

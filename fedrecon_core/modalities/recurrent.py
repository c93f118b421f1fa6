"""The recurrent extractor of the FedMultimodal benchmark (Feng et al. 2023): convolutions, then a GRU over time."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon_core.modalities.base import length_mask
from fedrecon_core.modalities.gru import GRU
from fedrecon_core.modalities.halving import Halving
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
            # As the convolution of images one step high: only for these does the library take channels last as they
            # are; it would transpose a sequence before a convolution and back after it.
            images, weight = _masked(hidden, lengths).transpose(1, 2).unsqueeze(2), convolution.weight.unsqueeze(2)
            convolved = F.conv2d(images, weight, convolution.bias, padding=(0, convolution.kernel_size[0] // 2))
            hidden = self.halving(_masked(convolved.squeeze(2).transpose(1, 2), lengths))
            lengths = None if lengths is None else (lengths + 1) // 2
        tokens: Tensor = self.gru(hidden)
        return tokens, None if lengths is None else length_mask(lengths, tokens.shape[1])


def _masked(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """[R, T, C] with zeros after the ends, since a convolution would carry padding into the sequences."""
    return hidden if lengths is None else hidden * length_mask(lengths, hidden.shape[1])[:, :, None]

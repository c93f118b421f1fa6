"""Sequences (T, D) of up to T steps: 1-D convolutions with a length mask; one token per few steps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from fedrecon_core.config import require_defaults
from fedrecon_core.modalities.base import GaussianHead, KindParams, ModalityKind, length_mask
from fedrecon_core.modalities.recurrent import Recurrent, RecurrentExtractor
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import ModalitySpec, Widths

Channels = Annotated[Widths, Field(min_length=1)]


class SequenceParams(KindParams):
    """``generator`` and ``extractor``: channels of their convolutions, each of which halves the time axis. Instead of
    channels, ``extractor`` may have the keys of a recurrent extractor. ``normalise`` adds a LayerNorm over the channels
    of every step before each ReLU of the extractor: deep ones learn faster."""

    name: str = "sequence"
    generator: Channels = (32, 64)
    extractor: Channels | Recurrent = (32, 64)
    normalise: bool = False

    @model_validator(mode="after")
    def check_normalise(self) -> Self:
        """Allow ``normalise`` with strided convolutions only."""
        if isinstance(self.extractor, Recurrent):
            require_defaults(
                self, ("normalise",), "with a recurrent extractor (it applies between strided convolutions only)"
            )
        return self


class Downsampler(nn.Module):
    """Strided convolutions over time in which padding after a sequence's end never leaks into it. That is also why
    ``normalise`` works within a step: statistics over time would include the padding."""

    def __init__(self, features: int, channels: tuple[int, ...], normalise: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, 5, stride=2, padding=2) for before, after in pairwise((features, *channels))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) if normalise else nn.Identity() for width in channels)

    def forward(self, values: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[R, T, D] -> (hidden [R, T', C], lengths in units of T'); hidden is zero after the ends."""
        hidden = values.transpose(1, 2)
        if lengths is not None:
            hidden = hidden * length_mask(lengths, hidden.shape[-1])[:, None, :]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = norm(layer(hidden).transpose(1, 2)).transpose(1, 2).relu()
            if lengths is not None:
                lengths = (lengths + 1) // 2
                hidden = hidden * length_mask(lengths, hidden.shape[-1])[:, None, :]
        return hidden.transpose(1, 2), lengths


class SequenceEncoder(nn.Module):
    """q(z given sequence); the hidden steps are concatenated, so that the latent keeps their order."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], latent: int) -> None:
        super().__init__()
        steps, features = spec.shape
        self.steps = math.ceil(steps / 2 ** len(channels))
        self.body = Downsampler(features, channels)
        self.head = GaussianHead(self.steps * channels[-1], latent)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[R, T, D] (T up to the spec's) -> mean and log-variance, each [R, Z]."""
        hidden, _ = self.body(values, lengths)
        missing = self.steps - hidden.shape[1]
        padded = nn.functional.pad(hidden, (0, 0, 0, missing))
        mean, log_variance = self.head(padded.flatten(1))
        return mean, log_variance


class SequenceDecoder(nn.Module):
    """Location of p(sequence given z), always in the spec's full length."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.steps, features = spec.shape
        self.start = (channels[-1], math.ceil(self.steps / 2 ** len(channels)))
        self.linear = nn.Linear(latent, math.prod(self.start))
        layers: list[nn.Module] = []
        for before, after in pairwise((*reversed(channels), features)):
            layers += [nn.ReLU(), nn.ConvTranspose1d(before, after, 4, stride=2, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """[R, Z] -> [R, T, D]."""
        values: Tensor = self.body(self.linear(z).view(-1, *self.start))
        return values[:, :, : self.steps].transpose(1, 2)


class SequenceExtractor(nn.Module):
    """One token per remaining time step."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], normalise: bool, width: int) -> None:
        super().__init__()
        self.body = Downsampler(spec.shape[1], channels, normalise)
        self.linear = nn.Linear(channels[-1], width)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[R, T, D] -> tokens [R, T', width] and, for variable lengths, their mask [R, T']."""
        hidden, lengths = self.body(values, lengths)
        mask = None if lengths is None else length_mask(lengths, hidden.shape[1])
        return self.linear(hidden), mask


@MODALITIES.register("sequence")
class Sequence(ModalityKind):
    """Time series and token features, of fixed or variable length."""

    Params = SequenceParams
    axes = ("T", "D")

    def encoder(self, latent: int) -> nn.Module:
        """A masked convolutional encoder."""
        return SequenceEncoder(self.spec, self.params.generator, latent)

    def decoder(self, latent: int) -> nn.Module:
        """A transposed-convolutional decoder over time."""
        return SequenceDecoder(self.spec, self.params.generator, latent)

    def extractor(self, width: int) -> nn.Module:
        """A masked convolutional or recurrent extractor."""
        chosen = self.params.extractor
        if isinstance(chosen, Recurrent):
            return RecurrentExtractor(self.spec, chosen, width)
        return SequenceExtractor(self.spec, chosen, self.params.normalise, width)

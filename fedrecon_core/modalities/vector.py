"""Feature vectors (D,): multilayer perceptrons everywhere; one token for the task model."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from fedrecon_core.modalities.base import GaussianHead, KindParams, ModalityKind
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import Widths


class VectorParams(KindParams):
    """Hidden widths of the generator's and of the extractor's perceptrons. ``normalise`` (LayerNorm before each ReLU)
    and ``dropout`` (after it) apply to the extractor; a generator's layers are always normalized."""

    name: str = "vector"
    generator: Widths = Field(default=(128, 128), min_length=1)
    extractor: Widths = Field(default=(128,), min_length=1)
    normalise: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


def _perceptron(inputs: int, hidden: tuple[int, ...], normalise: bool = True, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *hidden)):
        norms = [nn.LayerNorm(after)] if normalise else []
        drops = [nn.Dropout(dropout)] if dropout else []
        layers += [nn.Linear(before, after), *norms, nn.ReLU(), *drops]
    return nn.Sequential(*layers)


class VectorEncoder(nn.Module):
    """q(z given vector)."""

    def __init__(self, size: int, hidden: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.body = _perceptron(size, hidden)
        self.head = GaussianHead(hidden[-1], latent)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[R, D] -> mean and log-variance, each [R, Z]."""
        mean, log_variance = self.head(self.body(values))
        return mean, log_variance


class VectorExtractor(nn.Module):
    """One token per vector."""

    def __init__(self, size: int, params: VectorParams, width: int) -> None:
        super().__init__()
        self.body = _perceptron(size, params.extractor, params.normalise, params.dropout)
        self.linear = nn.Linear(params.extractor[-1], width)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[R, D] -> tokens [R, 1, width]."""
        return self.linear(self.body(values)).unsqueeze(1), None


@MODALITIES.register("vector")
class Vector(ModalityKind):
    """Vectors of a fixed length."""

    Params = VectorParams
    axes = ("D",)

    def encoder(self, latent: int) -> nn.Module:
        """A perceptron to mean and log-variance."""
        return VectorEncoder(self.spec.shape[0], self.params.generator, latent)

    def decoder(self, latent: int) -> nn.Module:
        """The encoder's widths in reverse order."""
        hidden = tuple(reversed(self.params.generator))
        return nn.Sequential(_perceptron(latent, hidden), nn.Linear(hidden[-1], self.spec.shape[0]))

    def extractor(self, width: int) -> nn.Module:
        """A perceptron to one token."""
        return VectorExtractor(self.spec.shape[0], self.params, width)

"""Images (C, H, W): strided convolutions down to a latent, transposed ones back; one token for the task model."""

from __future__ import annotations

import math
from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from fedrecon_core.config import Params
from fedrecon_core.modalities.base import GaussianHead, ModalityKind
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import ModalitySpec


class ImageParams(Params):
    """Channels of the generator's and of the extractor's convolutions; each layer halves height and width."""

    name: str = "image"
    generator: tuple[int, ...] = Field(default=(32, 64), min_length=1)
    extractor: tuple[int, ...] = Field(default=(16, 32), min_length=1)


def _halved(size: int, times: int) -> int:
    return math.ceil(size / 2**times)


def _down(inputs: int, channels: tuple[int, ...], normalise: bool) -> nn.Sequential:
    """Conv (kernel 3, stride 2) and ReLU per entry of ``channels``; GroupNorm where asked (BatchNorm averages badly)."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *channels)):
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
        if normalise:
            layers.append(nn.GroupNorm(math.gcd(8, after), after))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten())


class ImageEncoder(nn.Module):
    """q(z given image)."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], latent: int) -> None:
        super().__init__()
        colours, height, width = spec.shape
        area = _halved(height, len(channels)) * _halved(width, len(channels))
        self.body = _down(colours, channels, normalise=False)
        self.head = GaussianHead(channels[-1] * area, latent)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[R, C, H, W] -> mean and log-variance, each [R, Z]."""
        mean, log_variance = self.head(self.body(values))
        return mean, log_variance


class ImageDecoder(nn.Module):
    """Location of p(image given z)."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], latent: int) -> None:
        super().__init__()
        colours, self.height, self.width = spec.shape
        self.start = (channels[-1], _halved(self.height, len(channels)), _halved(self.width, len(channels)))
        self.linear = nn.Linear(latent, math.prod(self.start))
        layers: list[nn.Module] = []
        for before, after in pairwise((*reversed(channels), colours)):
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """[R, Z] -> [R, C, H, W]; sizes that are no multiple of the stride are cut from a slightly larger image."""
        image: Tensor = self.body(self.linear(z).view(-1, *self.start))
        return image[:, :, : self.height, : self.width]


class ImageExtractor(nn.Module):
    """One token per image."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        colours, height, breadth = spec.shape
        area = _halved(height, len(channels)) * _halved(breadth, len(channels))
        self.body = _down(colours, channels, normalise=True)
        self.linear = nn.Linear(channels[-1] * area, width)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[R, C, H, W] -> tokens [R, 1, width]."""
        return self.linear(self.body(values)).unsqueeze(1), None


@MODALITIES.register("image")
class Image(ModalityKind):
    """Images of a fixed size."""

    Params = ImageParams

    def encoder(self, latent: int) -> nn.Module:
        """A convolutional encoder."""
        return ImageEncoder(self.spec, self.params.generator, latent)

    def decoder(self, latent: int) -> nn.Module:
        """A transposed-convolutional decoder."""
        return ImageDecoder(self.spec, self.params.generator, latent)

    def extractor(self, width: int) -> nn.Module:
        """A convolutional extractor."""
        return ImageExtractor(self.spec, self.params.extractor, width)

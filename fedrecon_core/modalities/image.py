"""Images (C, H, W): convolutions and linear layers to a latent and back; one token for the task model."""

from __future__ import annotations

import math
from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from fedrecon_core.modalities.base import GaussianHead, KindParams, ModalityKind
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import ModalitySpec, Widths


class ImageParams(KindParams):
    """``generator`` and ``extractor``: channels of their convolutions, each of which halves height and width;
    ``hidden``: widths of the generator's linear layers between the convolutions and the latent.

    The default generator has no convolutions: on small images it learns more per second than a convolutional one.
    Large images need some, for example ``generator: [32, 64, 64]``.
    """

    name: str = "image"
    generator: Widths = ()
    hidden: Widths = (256,)
    extractor: Widths = Field(default=(16, 32), min_length=1)


class Spread(nn.Module):
    """Scale pixels from [0, 1] to [-2, 2], about mean 0 and deviation 1 for most images: encoders learn several
    times faster. Images that the federation standardizes (``scale: standard``) pass unchanged.
    """

    def __init__(self, spec: ModalitySpec) -> None:
        super().__init__()
        self.slope, self.offset = (4.0, 2.0) if spec.scale == "none" else (1.0, 0.0)

    def forward(self, values: Tensor) -> Tensor:
        """[R, C, H, W] -> the same shape."""
        return values * self.slope - self.offset


def _smallest(spec: ModalitySpec, channels: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) after convolutions with ``channels``, each of which halves height and width, rounded up."""
    colours, height, width = spec.shape
    return (channels or (colours,))[-1], -(-height >> len(channels)), -(-width >> len(channels))


def _down(inputs: int, channels: tuple[int, ...], normalise: bool) -> nn.Sequential:
    """Conv (kernel 3, stride 2) and ReLU per channel count; GroupNorm if requested (BatchNorm statistics do not average
    well)."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *channels)):
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
        if normalise:
            layers.append(nn.GroupNorm(min(math.gcd(8, after), max(after // 2, 1)), after))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten())


def _dense(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear, LayerNorm and ReLU from each of ``widths`` to the next."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]
    return nn.Sequential(*layers)


class ImageEncoder(nn.Module):
    """q(z given image)."""

    def __init__(self, spec: ModalitySpec, params: ImageParams, latent: int) -> None:
        super().__init__()
        widths = (math.prod(_smallest(spec, params.generator)), *params.hidden)
        self.body = nn.Sequential(Spread(spec), _down(spec.shape[0], params.generator, normalise=False), _dense(widths))
        self.head = GaussianHead(widths[-1], latent)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[R, C, H, W] -> mean and log-variance, each [R, Z]."""
        mean, log_variance = self.head(self.body(values))
        return mean, log_variance


class ImageDecoder(nn.Module):
    """Location of p(image given z)."""

    def __init__(self, spec: ModalitySpec, params: ImageParams, latent: int) -> None:
        super().__init__()
        colours, self.height, self.width = spec.shape
        self.start = _smallest(spec, params.generator)
        widths = (latent, *reversed(params.hidden))
        self.linear = nn.Sequential(_dense(widths), nn.Linear(widths[-1], math.prod(self.start)))
        layers: list[nn.Module] = []
        for before, after in pairwise((*reversed(params.generator), colours)):
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """[R, Z] -> [R, C, H, W]; sizes that are not multiples of the stride are cut from a slightly larger image."""
        image: Tensor = self.body(self.linear(z).view(-1, *self.start))
        return image[:, :, : self.height, : self.width]


class ImageExtractor(nn.Module):
    """One token per image."""

    def __init__(self, spec: ModalitySpec, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.body = _down(spec.shape[0], channels, normalise=True)
        self.linear = nn.Linear(math.prod(_smallest(spec, channels)), width)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[R, C, H, W] -> tokens [R, 1, width]."""
        return self.linear(self.body(values)).unsqueeze(1), None


@MODALITIES.register("image")
class Image(ModalityKind):
    """Images of a fixed size."""

    Params = ImageParams
    axes = ("C", "H", "W")

    def encoder(self, latent: int) -> nn.Module:
        """Convolutions, if any, then linear layers."""
        return ImageEncoder(self.spec, self.params, latent)

    def decoder(self, latent: int) -> nn.Module:
        """The encoder in reverse order, with transposed convolutions."""
        return ImageDecoder(self.spec, self.params, latent)

    def extractor(self, width: int) -> nn.Module:
        """A convolutional extractor."""
        return ImageExtractor(self.spec, self.params.extractor, width)

"""Feature ``pixels``: the image itself, resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedrecon_core.config import Params
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.preparation.features.images import Mode, open_image, unit_pixels
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import Likelihood, ModalitySpec

Side = Annotated[int, Field(ge=1, le=4096)]


class PixelsParams(Params):
    """``size``: height and width; images of another size are resized. ``mode``: ``RGB``, or ``L`` (gray)."""

    name: str = "pixels"
    size: tuple[Side, Side] = (64, 64)
    mode: Mode = "RGB"


@FEATURES.register("pixels")
class Pixels(Feature):
    """(C, H, W) in [0, 1]. Images of another size are resized (bilinear, antialiased) and may be distorted."""

    Params = PixelsParams
    medium: ClassVar[Literal["image"]] = "image"
    libraries: ClassVar[Mapping[str, str]] = {"pillow": "PIL"}
    version: ClassVar[int] = 2  # rotation according to EXIF data
    params: PixelsParams

    @property
    def ragged(self) -> bool:
        """All images have one size."""
        return False

    def modality(self, name: str) -> ModalitySpec:
        """An image with a Gaussian likelihood of standard deviation 0.1, suited to pixels in [0, 1]."""
        shape = (len(self.params.mode), *self.params.size)
        return ModalitySpec(name=name, kind="image", shape=shape, likelihood=Likelihood(name="gaussian", std=0.1))

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 (C, H, W) per image."""
        from PIL import Image

        rows, (height, width) = [], self.params.size
        for content in contents:
            image = open_image(content, self.params.mode)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            rows.append(unit_pixels(image))
        return rows

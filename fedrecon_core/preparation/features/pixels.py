"""Feature ``pixels``: the image itself, in one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedrecon_core.config import Params
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.preparation.features.pictures import Mode, open_picture, unit_pixels
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import Likelihood, ModalitySpec

Side = Annotated[int, Field(ge=1, le=4096)]


class PixelsParams(Params):
    """``size``: height and width, to which an image of another size is squeezed. ``mode``: ``RGB``, or ``L`` (grey)."""

    name: str = "pixels"
    size: tuple[Side, Side] = (64, 64)
    mode: Mode = "RGB"


@FEATURES.register("pixels")
class Pixels(Feature):
    """(C, H, W) in [0, 1]. An image of the right size keeps its pixels; another is resized (bilinear, each pixel from
    all that it covers), its sides not in proportion."""

    Params = PixelsParams
    medium: ClassVar[Literal["image"]] = "image"
    libraries: ClassVar[Mapping[str, str]] = {"pillow": "PIL"}
    version: ClassVar[int] = 2  # images are turned as their EXIF data say
    params: PixelsParams

    @property
    def ragged(self) -> bool:
        """All images have one size."""
        return False

    def modality(self, name: str) -> ModalitySpec:
        """An image with a Gaussian of the width that pixels in [0, 1] need."""
        shape = (len(self.params.mode), *self.params.size)
        return ModalitySpec(name=name, kind="image", shape=shape, likelihood=Likelihood(name="gaussian", std=0.1))

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 (C, H, W) per image."""
        return [self._row(content) for content in contents]

    def _row(self, content: RawItem) -> FloatArray:
        from PIL import Image

        image = open_picture(content, self.params.mode)
        height, width = self.params.size
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return unit_pixels(image)

"""What the features of images share: from the bytes of a file to pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedrecon_core.errors import DataError
from fedrecon_core.features.base import Content, FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["L", "RGB"]
DEEP = ("I", "F")
"""How Pillow's modes of more than 8 bits begin; turning them into others would cut off what is bright."""


def open_picture(content: Content, mode: Mode) -> Image:
    """The whole image (of an animation the first one) as grey (``L``) or ``RGB``, without transparency, turned as it is
    stored. ``DataError`` naming the origin of what is no image, or cut, or has more than 8 bits per channel."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error
            image = Image.open(io.BytesIO(content.data))
            image.load()
    except UnidentifiedImageError:
        raise _misfit(content, "other bytes" if content.data else "no bytes") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise _misfit(content, " ".join(str(error).split()) or type(error).__name__) from None
    if image.mode.startswith(DEEP):
        raise _misfit(content, f"one of mode {image.mode}, with more than 8 bits per channel; convert it to 8 bits")
    return image.convert(mode)


def unit_pixels(image: Image) -> FloatArray:
    """float32 (C, H, W) in [0, 1]."""
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _misfit(content: Content, found: str) -> DataError:
    return DataError(f"{content.origin}: expected an image that Pillow reads (PNG, JPEG, ...), found {found}")

"""What the features of images share: from the bytes of a file to pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import FloatArray, RawItem

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["L", "RGB"]
DEEP = ("I", "F")
"""How Pillow's modes of more than 8 bits begin; turning them into others would cut off what is bright."""

PNG, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24
"""How a PNG file begins, and the place of the byte that says its bits per channel."""
TIFF_BITS = 258
"""The tag of bits per channel."""


def open_picture(content: RawItem, mode: Mode) -> Image:
    """The whole image (of an animation the first one) as grey (``L``) or ``RGB``, without transparency, turned as its
    EXIF data say. ``DataError`` naming the origin of what is no image, or cut, or has more than 8 bits per channel."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error
            file = Image.open(io.BytesIO(content.data))
            bits = _bits(content.data, file)
            file.load()
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise _misfit(content, "other bytes" if content.data else "no bytes") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise _misfit(content, " ".join(str(error).split()) or type(error).__name__) from None
    if bits > 8 or image.mode.startswith(DEEP):
        found = f"one of mode {image.mode}, with more than 8 bits per channel"
        raise _misfit(content, f"{found}; convert it to 8 bits")
    return image.convert(mode)


def _bits(data: bytes, file: Any) -> int:
    """Bits per channel of a PNG or TIFF file, by its header: Pillow turns coloured images of 16 bits into 8, so that
    the mode does not tell. 8 for other kinds of files."""
    if data.startswith(PNG):
        return data[PNG_DEPTH]
    return int(max(getattr(file, "tag_v2", {}).get(TIFF_BITS, (8,))))


def unit_pixels(image: Image) -> FloatArray:
    """float32 (C, H, W) in [0, 1]."""
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _misfit(content: RawItem, found: str) -> DataError:
    return DataError(f"{content.origin}: expected an image that Pillow reads (PNG, JPEG, ...), found {found}")

"""Shared code of image features: from the bytes of a file to pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import FloatArray, RawItem

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["L", "RGB"]
DEEP = ("I", "F")
"""Prefixes of Pillow's modes with more than 8 bits; converting them would clip bright values."""

PNG, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24
"""Signature of a PNG file, and the offset of the byte with its bits per channel."""
TIFF_BITS = 258
"""The tag with the bits per channel."""


def open_image(content: RawItem, mode: Mode) -> Image:
    """Read an image (the first one of an animation) in gray (``L``) or ``RGB``, without transparency, rotated according
    to its EXIF data. Raises ``DataError`` naming the origin if it is not an image, is truncated, or has more than 8
    bits per channel."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image of twice that size is an error
            file = Image.open(io.BytesIO(content.data))
            # Pillow converts color images of 16 bits to 8, so the bits per channel must come from the header.
            png, tags = content.data.startswith(PNG), getattr(file, "tag_v2", {})
            bits = content.data[PNG_DEPTH] if png else max(tags.get(TIFF_BITS, (8,)))
            file.load()
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise _misfit(content, "other bytes" if content.data else "no bytes") from None
    except Exception as error:  # Pillow raises many types on damaged files
        raise _misfit(content, " ".join(str(error).split()) or type(error).__name__) from None
    if bits > 8 or image.mode.startswith(DEEP):
        found = f"one of mode {image.mode}, with more than 8 bits per channel"
        raise _misfit(content, f"{found}; convert it to 8 bits")
    return image.convert(mode)


def unit_pixels(image: Image) -> FloatArray:
    """Convert to float32 (C, H, W) in [0, 1]."""
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _misfit(content: RawItem, found: str) -> DataError:
    return DataError(f"{content.origin}: expected an image that Pillow reads (PNG, JPEG, ...), found {found}")

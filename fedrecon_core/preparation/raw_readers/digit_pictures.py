"""The pictures of PolyMNIST: read from PNG files, or built of MNIST's digits and crops of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.raw_dataset import FloatArray
from fedrecon_core.preparation.raw_readers.idx import read_idx

Bytes = NDArray[np.uint8]
SIDE = 28
MOST = 1_000_000
"""Digits that a part may have."""
BACKGROUNDS = "backgrounds"


def picture(path: Path) -> FloatArray:
    """float32 [3, 28, 28] in [0, 1]."""
    pixels = pixels_of(path)
    if pixels.shape[:2] != (SIDE, SIDE):
        height, width = pixels.shape[:2]
        raise DataError(f"{path}: expected {SIDE} x {SIDE} pixels, found {width} x {height}")
    return _scaled(pixels)


def _scaled(pixels: Bytes) -> FloatArray:
    """uint8 [28, 28, 3] -> float32 [3, 28, 28] in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def pixels_of(path: Path) -> Bytes:
    """uint8 [H, W, 3] of a picture in any format that Pillow reads."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except Exception as error:  # Pillow's readers raise whatever the bytes of a damaged picture lead them to
        raise DataError(f"{path}: expected a picture, found {' '.join(str(error).split()) or 'none'}") from None


def mnist_part(raw: Path, prefix: str) -> tuple[Bytes, IntArray]:
    """Images uint8 [n, 28, 28] and digits int64 [n] of a part of MNIST."""
    images, labels = (_mnist_file(raw, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    pixels, digits = read_idx(images, 3), read_idx(labels, 1).astype(np.int64)
    if pixels.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images}: expected images of {SIDE} x {SIDE}, found {' x '.join(map(str, pixels.shape[1:]))}")
    if not 1 <= len(pixels) <= MOST:
        raise DataError(f"{images}: expected 1 to {MOST} images, found {len(pixels)}")
    if len(digits) != len(pixels):
        raise DataError(f"{labels}: expected a label for each of {len(pixels)} images, found {len(digits)}")
    if digits.max() > 9:
        raise DataError(f"{labels}: expected digits 0 to 9, found {digits.max()} at position {int(digits.argmax())}")
    return pixels, digits


def _mnist_file(raw: Path, name: str) -> Path:
    return raw / name if (raw / name).exists() else raw / f"{name}.gz"


def backgrounds_of(raw: Path, modalities: int) -> list[Path]:
    """A photograph for each modality: m0.jpg and so on, where there is an m0, else the first ones by name."""
    files = sorted(path for path in (raw / BACKGROUNDS).glob("[!.]*") if path.is_file())
    if not any(path.stem == "m0" for path in files):
        if len(files) < modalities:
            raise DataError(f"{raw / BACKGROUNDS}: expected {modalities} photographs, found {len(files)}")
        return files[:modalities]
    return [_one(raw, [path for path in files if path.stem == f"m{m}"], f"m{m}") for m in range(modalities)]


def _one(raw: Path, files: Sequence[Path], name: str) -> Path:
    if len(files) != 1:
        found = " and ".join(path.name for path in files) or "none"
        raise DataError(f"{raw / BACKGROUNDS}: expected one photograph named {name} (jpg, png, ...), found {found}")
    return files[0]


def places_in(background: Path) -> tuple[int, int]:
    """How many rows and how many columns of a photograph a crop may begin in."""
    height, width = pixels_of(background).shape[:2]
    if min(height, width) < SIDE:
        raise DataError(f"{background}: expected at least {SIDE} x {SIDE} pixels, found {width} x {height}")
    return height - SIDE + 1, width - SIDE + 1


def inverted(background: Bytes, digit: NDArray[np.bool_], corner: Sequence[int]) -> FloatArray:
    """float32 [3, 28, 28] in [0, 1]: a crop of ``background`` with its colours inverted where the digit is."""
    top, left = corner
    crop = background[top : top + SIDE, left : left + SIDE]
    return _scaled(np.where(digit[..., None], 255 - crop, crop))

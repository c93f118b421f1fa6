"""Pictures of PolyMNIST: read from PNG files, or built from MNIST's digits (IDX files) and crops of photographs."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.raw_dataset import FloatArray

Bytes = NDArray[np.uint8]
SIDE = 28
MOST = 1_000_000
"""Maximum number of digits in a part of MNIST."""
BACKGROUNDS = "backgrounds"
BYTES = 0x08
"""The third byte of an IDX file's magic number: unsigned bytes. The fourth is the number of dimensions."""
LARGEST = 1 << 31
"""Maximum number of values of an IDX file; a damaged header may state any number."""


def picture(path: Path) -> FloatArray:
    """Read a picture as float32 [3, 28, 28] in [0, 1]."""
    pixels = pixels_of(path)
    if pixels.shape[:2] != (SIDE, SIDE):
        height, width = pixels.shape[:2]
        raise DataError(f"{path}: expected {SIDE} x {SIDE} pixels, found {width} x {height}")
    return _scaled(pixels)


def _scaled(pixels: Bytes) -> FloatArray:
    """uint8 [28, 28, 3] -> float32 [3, 28, 28] in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def pixels_of(path: Path) -> Bytes:
    """Read a picture in any format that Pillow supports as uint8 [H, W, 3]."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except Exception as error:  # Pillow raises many types on damaged files
        raise DataError(f"{path}: expected a picture, found {' '.join(str(error).split()) or 'none'}") from None


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read an IDX file of bytes (magic number, sizes, values), plain or compressed (.gz). ``DataError`` if its header,
    number of dimensions or length does not match."""
    magic, header_bytes = bytes((0, 0, BYTES, dimensions)), 4 * (dimensions + 1)
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            header = file.read(header_bytes)
            if header[:4] != magic:
                expected = f"expected an IDX file of bytes in {dimensions} dimensions (magic number {magic.hex()})"
                raise DataError(f"{path}: {expected}, found {header[:4].hex() or 'an empty file'}")
            if len(header) != header_bytes:
                raise DataError(f"{path}: expected a header of {header_bytes} bytes, found {len(header)}")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            count = math.prod(shape)
            if count > LARGEST:
                raise DataError(f"{path}: expected at most {LARGEST} values, found a header that says {list(shape)}")
            values = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected an IDX file, found {' '.join(str(error).split())}; fetch it again") from None
    if len(values) != count:
        found = len(values) if len(values) < count else "more"
        raise DataError(f"{path}: expected {count} values, as its header says, found {found}; fetch it again")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def mnist_part(raw: Path, prefix: str) -> tuple[Bytes, IntArray]:
    """Read images uint8 [n, 28, 28] and digits int64 [n] of a part of MNIST, compressed or not."""
    plain = [raw / f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    images, labels = (path if path.exists() else path.with_name(f"{path.name}.gz") for path in plain)
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


def backgrounds_of(raw: Path, modalities: int) -> list[Path]:
    """Return a photograph per modality: m0.jpg, m1.jpg, ... if there is an m0, otherwise the first ones by name."""
    folder = raw / BACKGROUNDS
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    if not any(path.stem == "m0" for path in files):
        if len(files) < modalities:
            raise DataError(f"{folder}: expected {modalities} photographs, found {len(files)}")
        return files[:modalities]
    for modality in range(modalities):
        matching = [path.name for path in files if path.stem == f"m{modality}"]
        if len(matching) != 1:
            found = " and ".join(matching) or "none"
            raise DataError(f"{folder}: expected one photograph named m{modality} (jpg, png, ...), found {found}")
    by_name = {path.stem: path for path in files}
    return [by_name[f"m{modality}"] for modality in range(modalities)]


def crop_positions(background: Path) -> tuple[int, int]:
    """Return the number of rows and columns of a photograph in which a crop can start."""
    height, width = pixels_of(background).shape[:2]
    if min(height, width) < SIDE:
        raise DataError(f"{background}: expected at least {SIDE} x {SIDE} pixels, found {width} x {height}")
    return height - SIDE + 1, width - SIDE + 1


def inverted(background: Bytes, digit: NDArray[np.bool_], corner: Sequence[int]) -> FloatArray:
    """Return a crop of ``background`` with inverted colors where the digit is, float32 [3, 28, 28] in [0, 1]."""
    top, left = corner
    crop = background[top : top + SIDE, left : left + SIDE]
    return _scaled(np.where(digit[..., None], 255 - crop, crop))

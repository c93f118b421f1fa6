"""Reader of IDX files of bytes, MNIST's format (magic number, sizes, values), plain or compressed (.gz)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.errors import DataError

BYTES = 0x08
"""The third byte of the magic number: unsigned bytes. The fourth is the number of dimensions."""
LARGEST = 1 << 31
"""Maximum number of values; a damaged header may state any number."""


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a file with that many dimensions; ``DataError`` if its header or length does not match."""
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            shape = _shape(path, file.read(4 * (dimensions + 1)), dimensions)
            values = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected an IDX file, found {' '.join(str(error).split())}; fetch it again") from None
    if len(values) != math.prod(shape):
        found = len(values) if len(values) < math.prod(shape) else "more"
        raise DataError(
            f"{path}: expected {math.prod(shape)} values, as its header says, found {found}; fetch it again"
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """Return the sizes in the header."""
    magic = bytes((0, 0, BYTES, dimensions))
    if header[:4] != magic:
        expected = f"expected an IDX file of bytes in {dimensions} dimensions (magic number {magic.hex()})"
        raise DataError(f"{path}: {expected}, found {header[:4].hex() or 'an empty file'}")
    if len(header) != 4 * (dimensions + 1):
        raise DataError(f"{path}: expected a header of {4 * (dimensions + 1)} bytes, found {len(header)}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if math.prod(shape) > LARGEST:
        raise DataError(f"{path}: expected at most {LARGEST} values, found a header that says {list(shape)}")
    return shape

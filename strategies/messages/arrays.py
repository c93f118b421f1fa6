"""Flower's arrays opened and made without a copy more than is needed.

An ``Array`` holds what ``numpy.save`` writes: a header and the numbers. Flower parses the header and copies the numbers
each time that one is opened, which costs a server as much as the averages themselves; there are only as many headers as
there are shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy
from numpy.typing import NDArray

MAGIC, FIRST_VERSION = b"\x93NUMPY\x01\x00", 10
"""How version 1.0 of the format begins, and where its header stands, behind two bytes that tell its length."""
SERIALISED = "numpy.ndarray"
"""What Flower calls the format."""


def opened(array: Array) -> NDArray[Any]:
    """The numbers of ``array``, read-only and, if they are laid out as usual, where they lie."""
    data = array.data
    if array.stype != SERIALISED or not data.startswith(MAGIC):
        return array.numpy()
    start = FIRST_VERSION + int.from_bytes(data[8:10], "little")
    shape, in_order, dtype = _read(data[:start])
    if not in_order:
        return array.numpy()
    _check(dtype, shape, len(data) - start)
    return np.ndarray(shape, dtype, data, start)


def made(dtype: str, shape: Sequence[int], *content: NDArray[Any]) -> Array:
    """The array of ``dtype`` and ``shape`` whose bytes are those of ``content``, one piece behind the other.
    ``ValueError`` where they are more or fewer."""
    whole, kind = tuple(map(int, shape)), np.dtype(dtype)
    pieces = [np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data for piece in content]
    _check(kind, whole, sum(map(len, pieces)))
    return Array(str(kind), whole, SERIALISED, b"".join([_header(kind, whole), *pieces]))


def _check(dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> None:
    if dtype.hasobject or min(shape, default=0) < 0 or size != dtype.itemsize * math.prod(shape):
        raise ValueError(f"expected the bytes of an array of {dtype} {shape}, found {size}")


@lru_cache(maxsize=1024)
def _read(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the last axis runs fastest, and type."""
    shape, fortran, dtype = npy.read_array_header_1_0(BytesIO(header[8:]))
    return shape, not fortran, dtype


@lru_cache(maxsize=1024)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What ``numpy.save`` writes before the numbers."""
    written = BytesIO()
    described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(written, described)
    return written.getvalue()

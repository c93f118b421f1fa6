"""Reader of text files with numbers separated by spaces."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.files import read_text


def read_numbers(path: Path, columns: int) -> NDArray[np.float64]:
    """Read float64 [rows, columns], all finite; ``DataError`` naming the first invalid line."""
    expected = "one finite number" if columns == 1 else f"{columns} finite numbers"
    lines = read_text(path).splitlines()
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: expected rows of {expected}, found an empty file; fetch it again")
    try:
        table = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
        if table.shape[1] == columns and np.isfinite(table).all():
            return table
    except ValueError:
        pass
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        wrong = next((cell for cell in cells if not _is_finite(cell)), None)
        if cells and (wrong is not None or len(cells) != columns):
            found = f"'{wrong[:20]}'" if wrong is not None else str(len(cells))
            raise DataError(f"{path}: line {number}: expected {expected}, found {found}; fetch it again")
    raise DataError(f"{path}: expected {expected} in every line; fetch it again")


def read_integers(path: Path, columns: int) -> IntArray:
    """Read int64 [rows, columns], like ``read_numbers``."""
    table = read_numbers(path, columns)
    whole = table.astype(np.int64)
    if not np.array_equal(whole, table):
        row = int(np.flatnonzero((whole != table).any(axis=1))[0])
        found = " ".join(f"{value:g}" for value in table[row])
        raise DataError(f"{path}: row {row + 1}: expected integers, found {found}")
    return whole


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False

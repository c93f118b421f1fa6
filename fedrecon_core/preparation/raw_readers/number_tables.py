"""Reader of text files with numbers separated by spaces."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import read_text


def read_numbers(path: Path, columns: int) -> NDArray[np.float64]:
    """Read float64 [rows, columns], all finite; ``DataError`` naming the first invalid line."""
    lines = read_text(path).splitlines()
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: expected rows of {_counted(columns)}, found an empty file; fetch it again")
    try:
        table = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
    except ValueError:
        raise _first_fault(path, lines, columns) from None
    if table.shape[1] != columns or not np.isfinite(table).all():
        raise _first_fault(path, lines, columns)
    return table


def read_integers(path: Path, columns: int) -> IntArray:
    """Read int64 [rows, columns], like ``read_numbers``."""
    table = read_numbers(path, columns)
    whole = table.astype(np.int64)
    if not np.array_equal(whole, table):
        row = int(np.flatnonzero((whole != table).any(axis=1))[0])
        found = " ".join(f"{value:g}" for value in table[row])
        raise DataError(f"{path}: row {row + 1}: expected integers, found {found}")
    return whole


def _first_fault(path: Path, lines: list[str], columns: int) -> DataError:
    for number, line in enumerate(lines, start=1):
        words = line.split()
        wrong = next((word for word in words if not _is_number(word)), None)
        found = f"'{wrong[:20]}'" if wrong is not None else str(len(words))
        if words and (wrong is not None or len(words) != columns):
            return DataError(f"{path}: line {number}: expected {_counted(columns)}, found {found}; fetch it again")
    return DataError(f"{path}: expected {_counted(columns)} in every line; fetch it again")


def _counted(columns: int) -> str:
    return "one finite number" if columns == 1 else f"{columns} finite numbers"


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False

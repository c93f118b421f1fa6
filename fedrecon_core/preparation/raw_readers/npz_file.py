"""Reader of an .npz file: arrays are loaded on request and validated."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError, did_you_mean

_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""Exceptions of NumPy for truncated, damaged or encrypted archives."""


class NpzFile:
    """An .npz file. Arrays are never unpickled; arrays of Python objects are refused."""

    def __init__(self, path: Path) -> None:
        """Open ``path``; ``DataError`` if it is not an .npz file."""
        self.path = path
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise DataError(f"{path}: expected the arrays in an .npz file, found {found}; put the file there")
        try:
            self._opened: Any = np.load(path, allow_pickle=False) if zipfile.is_zipfile(path) else None
        except _DAMAGE as error:
            raise self._damaged(error) from None
        if self._opened is None:
            raise DataError(f"{path}: expected an .npz file (as np.savez writes it), found something else")

    @property
    def names(self) -> list[str]:
        """The names of the arrays, sorted."""
        return sorted(self._opened.files)

    def read(self, name: str, key: str) -> NDArray[Any]:
        """Load the array ``name``, which the description gives under ``key``."""
        if name not in self._opened.files:
            fault = f"{self.path}: {key}: expected one of {', '.join(self.names)}, found '{name}'"
            hint = did_you_mean(name, self.names)
            raise DataError(f"{fault}. {hint}" if hint else fault)
        try:
            array = self._opened[name]
        except _DAMAGE as error:
            raise self._damaged(error, name) from None
        if not isinstance(array, np.ndarray):
            raise DataError(f"{self.path}: {name}: expected an array, found other bytes; write the file with np.savez")
        return array

    def of(self, name: str, key: str, kinds: str, rows: int | None) -> NDArray[Any]:
        """Load an array whose dtype is among ``kinds`` (the letters of ``_KINDS``), with ``rows`` rows unless None."""
        array = self.read(name, key)
        if array.dtype.kind not in kinds:
            expected = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise DataError(f"{self.path}: {name} ({key}): expected {expected}, found {array.dtype}")
        if not array.ndim or (rows is not None and len(array) != rows):
            expected = "at least one axis" if rows is None else f"{rows} rows, like label"
            raise DataError(f"{self.path}: {name} ({key}): expected {expected}, found shape {list(array.shape)}")
        return array

    def column(self, name: str, key: str, kinds: str, rows: int | None) -> NDArray[Any]:
        """Load an array like ``of``, with one value per row."""
        array = self.of(name, key, kinds, rows)
        if array.ndim != 1:
            raise DataError(f"{self.path}: {name} ({key}): expected one value per row, found {list(array.shape)}")
        return array

    def codes(self, name: str, key: str, rows: int) -> IntArray:
        """Load a column as int64 [N]: integers unchanged, strings as positions among their sorted values."""
        column = self.column(name, key, "iuU", rows)
        if column.dtype.kind == "U":
            return np.unique(column, return_inverse=True)[1].astype(np.int64)
        if column.dtype == np.uint64 and len(column) and column.max() > np.iinfo(np.int64).max:
            raise DataError(f"{self.path}: {name} ({key}): expected numbers below 2**63, found {column.max()}")
        return column.astype(np.int64)

    def _damaged(self, error: BaseException, name: str = "") -> DataError:
        where = f"{self.path}: {name}" if name else f"{self.path}"
        found = " ".join(str(error).split()) or type(error).__name__
        return DataError(
            f"{where}: expected an undamaged array, found: {found}; save it again with np.savez, without Python objects"
        )


_KINDS = {
    "i": "integers",
    "u": "integers",
    "b": "booleans",
    "f": "floating-point numbers",
    "U": "strings",
}
"""Kind of a dtype -> its name in messages."""

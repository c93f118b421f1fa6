"""The arrays of one .npz file, each read when it is asked for, with its fault in one line."""

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
"""What NumPy raises on an archive that is cut, altered or encrypted."""


class NpzFile:
    """An .npz file. Its arrays are never unpickled: one of Python objects is refused."""

    def __init__(self, path: Path) -> None:
        """``DataError`` where ``path`` is no such file."""
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
        """The arrays that are there, sorted."""
        return sorted(self._opened.files)

    def read(self, name: str, key: str) -> NDArray[Any]:
        """The array ``name``, which the description names under ``key``."""
        if name not in self._opened.files:
            told = f"{self.path}: {key}: expected one of {', '.join(self.names)}, found '{name}'"
            hint = did_you_mean(name, self.names)
            raise DataError(f"{told}. {hint}" if hint else told)
        try:
            array = self._opened[name]
        except _DAMAGE as error:
            raise self._damaged(error, name) from None
        if not isinstance(array, np.ndarray):
            raise DataError(f"{self.path}: {name}: expected an array, found other bytes; write the file with np.savez")
        return array

    def of(self, name: str, key: str, kinds: str, rows: int | None) -> NDArray[Any]:
        """As ``read``, of a dtype among ``kinds`` (the letters of ``_KINDS``), with ``rows`` rows unless None."""
        array = self.read(name, key)
        if array.dtype.kind not in kinds:
            expected = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise DataError(f"{self.path}: {name} ({key}): expected {expected}, found {array.dtype}")
        if not array.ndim or (rows is not None and len(array) != rows):
            expected = "rows" if rows is None else f"{rows} rows, as label has"
            raise DataError(f"{self.path}: {name} ({key}): expected {expected}, found {list(array.shape)}")
        return array

    def column(self, name: str, key: str, kinds: str, rows: int | None) -> NDArray[Any]:
        """As ``of``, with one value per row."""
        array = self.of(name, key, kinds, rows)
        if array.ndim != 1:
            raise DataError(f"{self.path}: {name} ({key}): expected one value per row, found {list(array.shape)}")
        return array

    def codes(self, name: str, key: str, rows: int) -> IntArray:
        """int64 [N]: a column of whole numbers as it is, one of texts as positions among its sorted values."""
        column = self.column(name, key, "iuU", rows)
        if column.dtype.kind == "U":
            return np.unique(column, return_inverse=True)[1].astype(np.int64)
        if column.dtype == np.uint64 and len(column) and column.max() > np.iinfo(np.int64).max:
            raise DataError(f"{self.path}: {name} ({key}): expected numbers below 2**63, found {column.max()}")
        return column.astype(np.int64)

    def _damaged(self, error: BaseException, name: str = "") -> DataError:
        where = f"{self.path}: {name}" if name else f"{self.path}"
        found = " ".join(str(error).split()) or type(error).__name__
        told = "save it anew with np.savez, without Python objects"
        return DataError(f"{where}: expected an undamaged array, found: {found}; {told}")


_KINDS = {
    "i": "whole numbers",
    "u": "whole numbers",
    "b": "booleans",
    "f": "floating-point numbers",
    "U": "texts",
}
"""Kind of a dtype -> its word."""

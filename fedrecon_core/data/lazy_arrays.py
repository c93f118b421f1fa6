"""Arrays that are made of others as they are read, so that nothing is copied or computed before it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray, Stored


class View(ABC):
    """Base of such an array [N, *shape]. Indexed by int64 [K] or by a slice it gives an array of its own;
    ``np.asarray`` gives all of it."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.shape = shape
        self.dtype: Any = np.dtype(dtype)

    @abstractmethod
    def _take(self, rows: IntArray) -> NDArray[np.float32]:
        """[K, *shape]: the rows at the positions ``rows`` (int64 [K])."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: IntArray | slice) -> NDArray[np.float32]:
        return self._take(np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)


class Stack(View):
    """Arrays [N_i, *shape], which may be mapped from the disk, one behind the other along their first axis."""

    def __init__(self, parts: Sequence[Stored]) -> None:
        """``parts`` are at least one and have one shape behind the first axis."""
        self._parts = [part for part in parts if len(part)] or list(parts[:1])
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in self._parts])])
        super().__init__((int(self._starts[-1]), *self._parts[0].shape[1:]), self._parts[0].dtype)

    def _take(self, rows: IntArray) -> NDArray[np.float32]:
        taken: NDArray[np.float32] = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part):
            chosen = part == number
            taken[chosen] = self._parts[number][rows[chosen] - self._starts[number]]
        return taken

"""Several arrays read as one, without a copy of what is not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray, Stored


class Stack:
    """Arrays [N_i, *shape], which may be mapped from the disk, one behind the other along their first axis.

    Indexed by int64 [K] or by a slice it gives an array of its own; ``np.asarray`` gives all of it.
    """

    def __init__(self, parts: Sequence[Stored]) -> None:
        """``parts`` are at least one and have one shape behind the first axis."""
        self._parts = [part for part in parts if len(part)] or list(parts[:1])
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in self._parts])])
        self.dtype: Any = self._parts[0].dtype
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: IntArray | slice) -> NDArray[np.float32]:
        rows = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        taken: NDArray[np.float32] = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part):
            chosen = part == number
            taken[chosen] = self._parts[number][rows[chosen] - self._starts[number]]
        return taken

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]:
        return self[:]

"""A data set in memory, or mapped from the disk, before any partition or missingness."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import DataParams, RunConfig
from fedrecon_core.registry import DATASETS
from fedrecon_core.types import DatasetSpec

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class StoredArray(Protocol):
    """float32 [N, *shape] in memory or on the disk: a NumPy array, or an object that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape)."""

    @property
    def dtype(self) -> Any:
        """The NumPy dtype."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: Any, /) -> Any:
        """The rows at int64 [K] or at a slice."""

    def __array__(self) -> NDArray[np.float32]:
        """All rows."""


class LazyArray(ABC):
    """Base of an array [N, *shape] whose rows are computed or copied when they are read, from other arrays. Indexing
    with int64 [K] or a slice returns a new NumPy array; ``np.asarray`` returns all rows."""

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


class Stack(LazyArray):
    """Concatenation of arrays [N_i, *shape], which may be mapped from the disk, along the first axis."""

    def __init__(self, parts: Sequence[StoredArray]) -> None:
        """``parts``: at least one array; all have the same shape after the first axis."""
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


@dataclass(frozen=True)
class Dataset:
    """All samples of a data set.

    ``labels``: int64 [N], for a multilabel set zeros and ones [N, C]. ``ids``: int64 [N], unique and stable. ``split``:
    int64 [N] with 0 train, 1 validation, 2 test. ``cluster_ids``: int64 [N], the unit that is in one split only and
    that a bootstrap draws (source digit, subject, dialogue). ``natural_ids``: int64 [N], the source of a sample by
    which a natural partition divides; it defaults to ``cluster_ids`` and differs where the source is another unit (the
    speaker of an utterance).

    ``arrays[m]``: float32 [N_m, *shape], may be memory-mapped. ``rows[m]``: int64 [N], the row of each sample in
    ``arrays[m]``, or -1 where the sample lacks m. For a modality of variable length ``arrays[m]`` is concatenated in
    time, and ``offsets[m]``, int64 [N_m + 1], are the boundaries.

    ``sites`` and ``owner`` (int64 [N], the position of each sample's site) are set if the data come from existing
    sites. ``faults``: known faults of the data, one sentence each, such as those of a benchmark protocol that is
    reproduced; empty for every default protocol. ``normalised_by_natural_id``: the modalities whose training values
    depend on all training values of the same natural id, so that a mask must hide all of them or none.
    """

    spec: DatasetSpec
    labels: IntArray
    ids: IntArray
    split: IntArray
    cluster_ids: IntArray
    arrays: Mapping[str, StoredArray]
    rows: Mapping[str, IntArray]
    offsets: Mapping[str, IntArray] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    owner: IntArray | None = None
    natural_ids: IntArray = None  # type: ignore[assignment]  # taken from cluster_ids where it is left out
    faults: tuple[str, ...] = ()
    normalised_by_natural_id: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if vars(self)["natural_ids"] is None:
            object.__setattr__(self, "natural_ids", self.cluster_ids)

    def strata(self) -> IntArray:
        """int64 [N]: one class per sample, for partitions by class. For a multilabel sample this is its label that is
        rarest in the data set, or C for a sample without labels."""
        if self.labels.ndim == 1:
            return self.labels
        by_rarity = np.argsort(self.labels.sum(axis=0), kind="stable")
        rarest = by_rarity[self.labels[:, by_rarity].argmax(axis=1)]
        rarest[~self.labels.any(axis=1)] = self.labels.shape[1]
        return np.asarray(rarest, dtype=np.int64)

    def members(self, split: int) -> IntArray:
        """The sample indices of a split (0 train, 1 validation, 2 test), ascending."""
        return np.flatnonzero(self.split == split).astype(np.int64)

    def exists(self) -> BoolArray:
        """bool [N, M]: which sample has which modality, before any simulated missingness."""
        return np.stack([self.rows[name] >= 0 for name in self.spec.names], axis=1)


@lru_cache(maxsize=1)
def _load(params: str, seed: int) -> Dataset:
    loader: type[DatasetLoader] = DATASETS.get(json.loads(params)["name"])
    checked = loader.Params.model_validate_json(params)
    return loader().load(checked, None if checked.root is None else Path(checked.root), seed)


def load_dataset(config: RunConfig) -> Dataset:
    """The data set of a config. The last one is cached for the process, by the ``data`` section and the seed."""
    return _load(config.data.model_dump_json(), config.seed)


def forget_datasets() -> None:
    """Clear the cache of ``load_dataset``."""
    _load.cache_clear()


class DatasetLoader(ABC):
    """Base of a registered data set: ``load`` reads it, ``Params`` are its config keys."""

    Params: ClassVar[type[DataParams]] = DataParams
    late_imports: ClassVar[tuple[str, ...]] = ()
    """Modules that ``load`` imports; an engine may import them before it needs them."""

    @abstractmethod
    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Load the data set. ``root`` is the absolute data folder, None for an embedded set; ``seed`` fixes all random
        choices. Raises ``DataError`` naming the file at fault."""

"""What a data set file hands over, before any partition or missingness."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
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


class Stored(Protocol):
    """Rows in memory or on the disk: an array, or what reads like one. float32 [N, *shape]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape)."""

    @property
    def dtype(self) -> Any:
        """NumPy's."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: Any, /) -> Any:
        """Rows by int64 [K] or by a slice."""

    def __array__(self) -> NDArray[np.float32]:
        """All of it."""


@dataclass(frozen=True)
class Dataset:
    """All samples of a data set.

    ``labels`` int64 [N], of a multilabel set zeros and ones [N, C]; ``ids`` int64 [N], unique and stable; ``split``
    int64 [N] with 0 train, 1 validation, 2 test; ``groups`` int64 [N], the unit that never straddles two splits and
    that a bootstrap draws (source digit, subject, dialogue); ``naturals`` int64 [N], whom or what a sample comes from,
    for a partition by nature, where that is another unit (the speaker of an utterance);
    ``arrays[m]`` float32 [N_m, *shape], memory-mappable; ``rows[m]`` int64 [N], the row of each sample in
    ``arrays[m]`` or -1 where the sample really lacks m; for a modality of variable length ``arrays[m]`` is
    concatenated in time and ``offsets[m]`` int64 [N_m + 1] holds the borders. Where the data come from sites,
    ``sites`` names them and ``owner`` int64 [N] is the position of each sample's site. ``faults`` says in words what
    is known to be wrong: what a protocol that is reproduced with its faults does, or what the raw files leave open;
    it is empty for every default protocol. ``by_natural`` names the modalities whose training values each depend on
    all training values of the same natural id, so that a mask may hide all of these or none.
    """

    spec: DatasetSpec
    labels: IntArray
    ids: IntArray
    split: IntArray
    groups: IntArray
    arrays: Mapping[str, Stored]
    rows: Mapping[str, IntArray]
    offsets: Mapping[str, IntArray] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    owner: IntArray | None = None
    naturals: IntArray | None = None
    faults: tuple[str, ...] = ()
    by_natural: tuple[str, ...] = ()

    @property
    def natural_ids(self) -> IntArray:
        """int64 [N]: ``naturals``, where there are none ``groups``."""
        return self.groups if self.naturals is None else self.naturals

    def strata(self) -> IntArray:
        """int64 [N]: one class per sample, by which a partition deals. Of several labels it is the one that is rarest
        in the data set; a sample without any is of class C."""
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
        """bool [N, M]: which sample really has which modality, before any simulated missingness."""
        return np.stack([self.rows[name] >= 0 for name in self.spec.names], axis=1)


@lru_cache(maxsize=1)
def _load(params: str, seed: int) -> Dataset:
    loader: type[DatasetLoader] = DATASETS.get(json.loads(params)["name"])
    checked = loader.Params.model_validate_json(params)
    return loader().load(checked, None if checked.root is None else Path(checked.root), seed)


def load_dataset(config: RunConfig) -> Dataset:
    """The data set of a config, loaded once per process whatever else the config says."""
    return _load(config.data.model_dump_json(), config.seed)


def forget_datasets() -> None:
    """Let go of the data set that the process keeps."""
    _load.cache_clear()


class DatasetLoader(ABC):
    """Base of a registered data set: ``load`` reads it, ``Params`` are its keys."""

    Params: ClassVar[type[DataParams]] = DataParams

    @abstractmethod
    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """The data set under ``params``; ``root`` is the absolute data folder or None for an embedded set; ``seed``
        fixes whatever is drawn in building it. Raises ``DataError`` naming the file at fault."""

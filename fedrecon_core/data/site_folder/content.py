"""What a site folder holds, in memory, and the names of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import BoolArray, IntArray
from fedrecon_core.types import DatasetSpec

SAMPLES, ARRAYS = "samples.parquet", "arrays"


@dataclass(frozen=True)
class Samples:
    """The table of samples. ``ids``, ``labels`` (multilabel: zeros and ones [N, C]), ``split`` (0 train, 1 validation,
    2 test), ``groups`` int64 [N]; ``present`` bool [N, M] in the order of the spec's modalities; ``naturals`` int64 [N]
    as in ``Dataset``, where they are not the groups."""

    ids: IntArray
    labels: IntArray
    split: IntArray
    groups: IntArray
    present: BoolArray
    naturals: IntArray | None = None

    @property
    def natural_ids(self) -> IntArray:
        """int64 [N]: ``naturals``, where there are none ``groups``."""
        return self.groups if self.naturals is None else self.naturals


@dataclass(frozen=True)
class Content:
    """All that a folder holds. ``arrays[m]`` float32 as in ``Dataset``, only for modalities that some sample has;
    ``faults`` as in ``Dataset``."""

    spec: DatasetSpec
    samples: Samples
    arrays: Mapping[str, NDArray[np.float32]]
    offsets: Mapping[str, IntArray] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def array_file(modality: str) -> str:
    """Where the rows of a modality lie, relative to the folder."""
    return f"arrays/{modality}.npy"


def offsets_file(modality: str) -> str:
    """Where the borders of sequences of different lengths lie, relative to the folder."""
    return f"arrays/{modality}.offsets.npy"


def file_names(spec: DatasetSpec) -> list[str]:
    """The data files that a folder may hold, relative to it."""
    return [SAMPLES, *(of(name) for name in spec.names for of in (array_file, offsets_file))]


def rows_of(present: BoolArray) -> list[IntArray]:
    """Per modality (column of ``present``) int64 [N]: the row of each sample in the modality's array, or -1."""
    return [np.where(has, np.cumsum(has) - 1, -1) for has in present.T]

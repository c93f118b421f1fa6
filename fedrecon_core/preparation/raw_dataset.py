"""A raw data set: samples from its tables, and readers of the rows, which are read later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.types import DatasetSpec

FloatArray = NDArray[np.float32]
RowReader = Callable[[IntArray], Sequence[FloatArray]]
"""Sample positions int64 [K], all of which have the modality -> their K rows."""


def column(values: Sequence[int]) -> IntArray:
    """int64 [N]: one value per sample."""
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True)
class RawDataset:
    """A data set whose tables have been read and whose large files have not.

    ``samples.present``: which sample has which modality. ``rows[m]``: reads rows of modality m, float32
    [*spec[m].shape], or [T_i, D] with 1 <= T_i <= spec[m].shape[0] for the modalities in ``ragged``. ``names``: the
    samples' names for messages ("dia0_utt3"). ``version``: identifies everything else that determines the rows
    (options, weights of features, sizes and times of files); an interrupted preparation resumes only if it is the same.
    ``faults`` as in ``Dataset``. ``found``: a note for the user on which of several layouts was found; empty if
    there is only one.
    """

    spec: DatasetSpec
    samples: Samples
    rows: Mapping[str, RowReader]
    ragged: frozenset[str] = frozenset()
    names: Sequence[str] = field(default=())
    version: str = ""
    faults: tuple[str, ...] = ()
    found: str = ""

    def name_of(self, sample: int) -> str:
        """The name of a sample for messages."""
        return self.names[sample] if len(self.names) else f"sample {self.samples.ids[sample]}"

    def digest(self) -> str:
        """SHA-256 over specification, samples and version."""
        sha = hashlib.sha256(f"{self.spec.digest()}\n{self.version}\n{sorted(self.ragged)}".encode())
        samples = self.samples
        for part in (
            samples.ids,
            samples.labels,
            samples.split,
            samples.cluster_ids,
            samples.natural_ids,
            samples.present,
        ):
            sha.update(np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()

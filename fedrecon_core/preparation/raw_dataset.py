"""What a raw data set turns out to hold once its tables are read: samples, and how to get their rows."""

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
    """All that is known before the large files are read.

    ``samples.present`` says which sample has which modality; ``rows[m]`` reads rows of modality m, float32
    [*spec[m].shape], for the modalities in ``ragged`` [T_i, D] with 1 <= T_i <= spec[m].shape[0]. ``names`` are the
    samples' own names for messages ("dia0_utt3"). ``version`` stands for whatever else decides the rows (options,
    weights of a feature extractor, sizes and times of the files): a preparation that was interrupted goes on only under
    the same version. ``faults`` as in ``Dataset``. ``found`` says in a line which of several layouts the files are in,
    for the person who prepares; nothing where there is one.
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
        """What a message calls the sample."""
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

"""Partition ``natural``: assigns whole natural ids (subjects, sources) to sites; no id is ever split."""

from __future__ import annotations

import numpy as np

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.partitions.base import Partition, owners
from fedrecon_core.errors import DataError
from fedrecon_core.registry import PARTITIONS


@PARTITIONS.register("natural")
class Natural(Partition):
    """Shuffled natural ids, assigned to sites in turn, so that all sites have equal numbers of ids (they differ by at
    most one)."""

    keeps_natural_ids = True

    def _assign(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        from flwr_datasets.partitioner import NaturalIdPartitioner

        known = len(np.unique(natural_ids))
        if known < sites:
            raise DataError(
                f"sites.count: expected at most {known}, the number of natural ids, found {sites}; "
                "lower sites.count or choose another data.partition"
            )
        number = owners(lambda: NaturalIdPartitioner(partition_by="value"), natural_ids, np.arange(len(natural_ids)))
        shuffled = np.random.default_rng(rng_seed).permutation(known)
        assigned: IntArray = (shuffled % sites)[number].astype(np.int64)
        return assigned

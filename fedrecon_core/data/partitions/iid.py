"""Partition ``iid``: random samples, equal numbers per site (they differ by at most one)."""

from __future__ import annotations

import numpy as np

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.partitions.base import Partition, owners
from fedrecon_core.registry import PARTITIONS


@PARTITIONS.register("iid")
class Iid(Partition):
    """Equal shares of the shuffled samples. The library's partitioner does not shuffle, so this class does."""

    def _assign(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        from flwr_datasets.partitioner import IidPartitioner

        order = np.random.default_rng(rng_seed).permutation(len(labels))
        return owners(lambda: IidPartitioner(num_partitions=sites), labels, order)

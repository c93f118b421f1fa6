"""Partition ``dirichlet``: each class is shared out by proportions drawn from a symmetric Dirichlet distribution."""

from __future__ import annotations

from typing import cast

import numpy as np
from pydantic import Field

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.partitions.base import Partition, owners
from fedrecon_core.registry import PARTITIONS


class DirichletParams(config.Params):
    """``alpha``: concentration; small values give each site few classes, large ones all classes alike."""

    alpha: float = Field(default=0.5, gt=0)


@PARTITIONS.register("dirichlet")
class Dirichlet(Partition):
    """Label skew. With small ``alpha`` or many sites some sites hold nothing, which is allowed: the library would
    otherwise draw again until it gives up."""

    Params = DirichletParams

    def _share_out(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        from flwr_datasets.partitioner import DirichletPartitioner

        alpha = cast(DirichletParams, params).alpha
        order = np.random.default_rng(rng_seed).permutation(len(labels))
        return owners(
            lambda: DirichletPartitioner(
                num_partitions=sites,
                partition_by="value",
                alpha=alpha,
                min_partition_size=0,
                self_balancing=False,
                shuffle=False,  # the rows come shuffled already
                seed=rng_seed,
            ),
            labels,
            order,
        )

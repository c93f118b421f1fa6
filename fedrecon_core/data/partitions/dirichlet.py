"""Partition ``dirichlet``: divides each class by proportions from a symmetric Dirichlet distribution."""

from __future__ import annotations

from typing import cast

import numpy as np
from pydantic import Field

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.partitions.base import Partition, owners
from fedrecon_core.registry import PARTITIONS


class DirichletParams(config.Params):
    """``alpha``: concentration; small values give each site few classes, large ones similar shares of all classes."""

    alpha: float = Field(default=0.5, gt=0)


@PARTITIONS.register("dirichlet")
class Dirichlet(Partition):
    """Label skew. With small ``alpha`` or many sites some sites stay empty; a minimum size is not set, because the
    library then draws again until it gives up."""

    Params = DirichletParams

    def _assign(
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
                shuffle=False,  # the rows are already shuffled
                seed=rng_seed,
            ),
            labels,
            order,
        )

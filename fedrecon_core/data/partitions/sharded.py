"""Partition ``sharded``: divides the samples of each natural id (a subject) into shards, each of which is a site."""

from __future__ import annotations

from typing import cast

import numpy as np
from pydantic import Field

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.partitions.base import Partition
from fedrecon_core.errors import DataError
from fedrecon_core.registry import PARTITIONS
from fedrecon_core.seeding import numpy_stream

ATTEMPTS = 1000
"""Maximum number of draws of an id's shards until each has ``least`` samples."""


class ShardedParams(config.Params):
    """``alpha``: concentration; small values give each shard few classes. ``shards``: their number per natural id.
    ``least``: minimum number of samples of each shard; the shards of an id are drawn again until all of them have so
    many."""

    alpha: float = Field(default=0.5, gt=0)
    shards: int = Field(default=5, ge=1)
    least: int = Field(default=0, ge=0)


@PARTITIONS.register("sharded")
class Sharded(Partition):
    """Label skew within each natural id. Site ``i * shards + s`` is shard s of the i-th natural id in ascending order,
    so that ``sites.count`` is the number of natural ids times ``shards``. With ``least: 0`` a shard may stay empty.

    A natural id is at several sites. Held-out samples of a training id go to its shards, in proportion to the shards'
    samples; held-out samples of another id stay together.
    """

    Params = ShardedParams
    follows_natural_ids = True

    def fixed_sites(self, params: config.Params, natural_ids: IntArray) -> tuple[int, str]:
        """The number of natural ids times ``shards``."""
        shards, known = cast(ShardedParams, params).shards, len(np.unique(natural_ids))
        return known * shards, f"{known} natural ids in {shards} shards each"

    def _assign(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        keys, owner = cast(ShardedParams, params), np.empty(len(labels), dtype=np.int64)
        known, position = np.unique(natural_ids, return_inverse=True)
        order = np.argsort(position, kind="stable")
        borders = np.searchsorted(position[order], np.arange(1, len(known)))
        for number, members in enumerate(np.split(order, borders)):
            natural = int(known[number])
            members = numpy_stream(rng_seed, "order", natural).permutation(members)
            rng = numpy_stream(rng_seed, "shards", natural)
            attempts = ATTEMPTS if len(members) >= keys.shards * keys.least else 0
            for _ in range(attempts):
                shard = draw_shards(labels[members], keys.shards, keys.alpha, rng)
                if np.bincount(shard, minlength=keys.shards).min() >= keys.least:
                    break
            else:
                raise DataError(
                    f"data.partition.least: expected {keys.shards} shards of at least {keys.least} samples from each "
                    f"natural id, found none for id {natural} with its {len(members)} samples; lower least or shards, "
                    "or raise alpha"
                )
            owner[members] = number * keys.shards + shard
        return owner


def draw_shards(labels: IntArray, shards: int, alpha: float, rng: np.random.Generator) -> IntArray:
    """int64 [n]: the shard, 0 to ``shards - 1``, of each sample of one natural id, by its class (``labels`` int64 [n]).

    Each class is cut, in the order of the samples, by proportions from a symmetric Dirichlet distribution with
    concentration ``alpha``. A shard that already has more than an even share of all samples gets none of the
    following classes. This is the algorithm of flwr-datasets' ``DirichletPartitioner`` with ``self_balancing``, draw
    for draw; the library's version refuses fewer samples than shards, gives up after ten draws, and needs a table for
    each id.
    """
    shard, held = np.empty(len(labels), dtype=np.int64), np.zeros(shards, dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        share = np.where(held > len(labels) / shards, 0.0, rng.dirichlet(np.full(shards, alpha)))
        if not share.sum() > 0:  # with a tiny alpha a full shard may have the whole proportion
            share = np.where(held > len(labels) / shards, 0.0, 1.0)
        cuts = (np.cumsum(share / share.sum()) * len(members)).astype(np.int64)[:-1]
        shard[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
        held += np.bincount(shard[members], minlength=shards)
    return shard

"""Base of the partition schemes, and an adapter for the partitioners of flwr-datasets, which split tables.

The server partitions once per run; a site receives its sample indices and never imports these libraries.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner


class Partition(ABC):
    """Base of a registered partition scheme, which assigns training samples to sites. ``Params`` are its config keys.

    ``keeps_natural_ids``: all samples of a natural id (a subject, a source) are at one site, so that held-out samples
    go to the site of their id. ``follows_natural_ids``: a natural id may be at several sites, and each held-out sample
    goes to one of them, in proportion to their numbers of samples of the id.
    """

    Params: ClassVar[type[config.Params]] = config.Params
    keeps_natural_ids: ClassVar[bool] = False
    follows_natural_ids: ClassVar[bool] = False
    late_imports: ClassVar[tuple[str, ...]] = ("flwr_datasets.partitioner",)
    """Modules that ``assign`` imports; an engine may import them before it needs them."""

    def assign(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        """int64 [N]: the site, 0 to ``sites - 1``, of each sample; the same for the same arguments.

        ``labels`` and ``natural_ids`` are int64 [N]; ``rng_seed`` is the seed of the draw. A site may stay empty if
        the scheme allows it. Raises ``DataError`` if there are fewer samples than sites, or if the scheme requires
        another number of sites.
        """
        fixed = self.fixed_sites(params, natural_ids)
        if fixed and sites != fixed[0]:
            count, reason = fixed
            raise DataError(
                f"sites.count: expected {count} ({reason}), found {sites}; set sites.count: {count} or choose another "
                "data.partition"
            )
        if not fixed and len(labels) < sites:
            raise DataError(
                f"sites.count: expected at most {len(labels)}, the number of samples, found {sites}; lower sites.count"
            )
        if sites == 1:
            return np.zeros(len(labels), dtype=np.int64)
        return self._assign(params, labels, natural_ids, sites, rng_seed)

    def fixed_sites(self, params: config.Params, natural_ids: IntArray) -> tuple[int, str] | None:
        """The number of sites that the scheme requires for samples with ``natural_ids`` (int64 [N]), and the reason;
        None if it allows any number."""
        return None

    @abstractmethod
    def _assign(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        """``assign``, called only for two or more sites and, unless the scheme fixes the number of sites, at least one
        sample per site."""


def owners(make: Callable[[], Partitioner], column: IntArray, order: IntArray) -> IntArray:
    """int64 [N]: the partition of each sample, by a partitioner of flwr-datasets.

    ``make`` builds the partitioner, which sees a table with the single column ``value`` = ``column[order]`` (int64
    [N]). ``order`` is a permutation drawn by the caller, because the library cuts the rows in their order; the result
    is in the original order. Progress bars and warnings of the library are suppressed.
    """
    owner = np.full(len(column), -1, dtype=np.int64)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        partitioner = make()
        partitioner.dataset = _table(column[order])
        for number in range(partitioner.num_partitions):
            owner[order[np.asarray(partitioner.load_partition(number), dtype=np.int64)]] = number
    if (owner < 0).any():
        raise DataError(
            f"data.partition: expected every sample at one site, found {int((owner < 0).sum())} of {len(owner)} "
            "at none; choose less extreme partition keys"
        )
    return owner


def _table(values: IntArray) -> Any:
    """A table that returns positions instead of sub-tables when rows are selected, because ten thousand sub-tables take
    ten seconds and ten thousand lists of positions take milliseconds."""
    import datasets

    class Positions(datasets.Dataset):  # type: ignore[misc]
        def select(self, indices: Any, *_: Any, **__: Any) -> Any:
            return indices

    return Positions(datasets.Dataset.from_dict({"value": values}).data)

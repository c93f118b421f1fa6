"""How a partition scheme looks, and the bridge to flwr-datasets, whose partitioners hand out rows of a table.

The server partitions once per run; a site receives its sample indices and never imports these libraries.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedrecon_core import config
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner


class Partition(ABC):
    """Base of a registered partition scheme: which site holds which training sample. ``Params`` are its keys.

    ``keeps_natural_ids`` says that all samples of a natural id (a subject, a source) lie at one site, so that samples
    of a later split follow their id. ``follows_natural_ids`` says that they follow it where it lies at several: each to
    one of the sites that train on its id, in proportion to what these hold of it.
    """

    Params: ClassVar[type[config.Params]] = config.Params
    keeps_natural_ids: ClassVar[bool] = False
    follows_natural_ids: ClassVar[bool] = False

    def assign(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        """int64 [N]: the site, 0 to ``sites - 1``, of each sample; the same for the same arguments.

        ``labels`` and ``natural_ids`` are int64 [N]; ``rng_seed`` is the seed of the draw. A site may stay empty where
        the scheme allows it. Raises ``DataError`` if there are fewer samples than sites, or if the scheme has a number
        of its own and this is another.
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
                f"sites.count: expected at most {len(labels)}, the number of samples to share out, found {sites}; "
                "lower sites.count"
            )
        if sites == 1:
            return np.zeros(len(labels), dtype=np.int64)
        return self._share_out(params, labels, natural_ids, sites, rng_seed)

    def fixed_sites(self, params: config.Params, natural_ids: IntArray) -> tuple[int, str] | None:
        """The only number of sites that samples with these ``natural_ids`` (int64 [N]) can be dealt to, and why; None
        where the scheme deals to any number."""
        return None

    @abstractmethod
    def _share_out(
        self, params: config.Params, labels: IntArray, natural_ids: IntArray, sites: int, rng_seed: int
    ) -> IntArray:
        """``assign`` for two or more sites and, unless the scheme fixes their number, at least as many samples."""


def owners(make: Callable[[], Partitioner], column: IntArray, order: IntArray) -> IntArray:
    """int64 [N]: the number of the partition that each sample falls into.

    ``make`` builds the partitioner (called where its library may be noisy); it sees a table with the one column
    ``value`` = ``column[order]`` (int64 [N]). ``order`` is a permutation drawn by the caller, because the libraries
    cut in the order of the rows; it is mapped back here.
    """
    owner = np.full(len(column), -1, dtype=np.int64)
    with _quiet():
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
    """A table whose selections are the selected positions themselves: ten thousand sites then take milliseconds
    where ten thousand real sub-tables take ten seconds."""
    import datasets

    class Positions(datasets.Dataset):  # type: ignore[misc]
        def select(self, indices: Any, *_: Any, **__: Any) -> Any:
            return indices

    return Positions(datasets.Dataset.from_dict({"value": values}).data)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and advice: a run's stderr is for the user's own faults."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield

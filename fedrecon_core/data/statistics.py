"""Federation-wide statistics of the modalities: each site sends sums over its present training rows, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_data import ModalityArray, Scaling, SiteData
from fedrecon_core.types import ModalitySpec

Sums = tuple[float, list[float], list[float]]
"""(count, sums, sums of squares) of one modality's features."""
FLAT = 1e-7
"""A feature whose standard deviation is below this share of its root mean square is constant, as far as float32 can
tell: it is centred and not stretched. A share, since a unit may be as small as a tesla of a brain's field."""
ROUNDING = 1e-10
"""By how much sums over the same values may differ, as a share of the sum of squares, or, for the sums, of its root
times that of the count, which no sum exceeds: kinds of processors, and GPUs, add in orders of their own."""
BLOCK = 4 << 20
"""Bytes of stored values that are summed together. The number of rows in a block follows from the modality's shape
alone, so that the sums do not depend on whether a file is mapped or a site was dealt out."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of a modality's features, float64 [F]."""

    mean: Tensor
    std: Tensor

    @property
    def varies(self) -> Tensor:
        """bool [F]: which features are not constant (``FLAT``)."""
        return self.std > FLAT * (self.mean**2 + self.std**2).sqrt()


def site_sums(data: SiteData) -> dict[str, Sums]:
    """Modality -> sums over this site's present rows; modalities without any row are left out. A block of rows is in
    memory at a time."""
    sums = {}
    for modality in data.spec.modalities:
        column = data.arrays[modality.name]
        rows = column.used()
        if len(rows):
            sums[modality.name] = _summed(modality, column, rows)
    return sums


def _summed(modality: ModalitySpec, column: ModalityArray, rows: Tensor) -> Sums:
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for block in rows.split(max(1, BLOCK // (4 * math.prod(modality.shape)))):
        values = column.steps(block).reshape(-1, *modality.features).flatten(1).double()
        count, total, squares = count + len(values), total + values.sum(0), squares + values.square_().sum(0)
    return float(count), total.tolist(), squares.tolist()


def same_values(one: Sums, other: Sums) -> bool:
    """Whether both may be sums over the same values, which makes them equal but for ``ROUNDING``."""
    (count, *sums), (count_too, *sums_too) = one, other
    if count != count_too or list(map(len, sums)) != list(map(len, sums_too)):
        return False
    mine, theirs = np.asarray(sums), np.asarray(sums_too)
    slack = ROUNDING * np.stack([np.sqrt(count * mine[1]), mine[1]])
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        near = np.abs(mine - theirs) < slack
    return bool((near | (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))).all())


def combine(sites: Iterable[Mapping[str, Sums]]) -> dict[str, Statistics]:
    """Modality -> statistics over all sites, added up in the order given (pass them in sorted site order)."""
    totals: dict[str, list[Tensor]] = {}
    for site in sites:
        for name, (count, sums, squares) in site.items():
            parts = [
                torch.tensor([count], dtype=torch.float64),
                *(torch.tensor(x, dtype=torch.float64) for x in (sums, squares)),
            ]
            known = totals.get(name)
            totals[name] = parts if known is None else [a + b for a, b in zip(known, parts, strict=True)]
    return {name: _statistics(*total) for name, total in totals.items()}


def _statistics(count: Tensor, sums: Tensor, squares: Tensor) -> Statistics:
    mean = sums / count
    return Statistics(mean, (squares / count - mean**2).clamp(min=0).sqrt())


def scaled(data: SiteData, statistics: Mapping[str, Statistics]) -> SiteData:
    """``data`` with the modalities that ask for it z-normalised (``ModalitySpec.scale``)."""
    wanted = {m.name: m for m in data.spec.modalities if m.scale == "standard" and m.name in statistics}
    if not wanted:
        return data

    def scale(columns: dict[str, ModalityArray]) -> dict[str, ModalityArray]:
        return {n: c.scaled(scaling(wanted[n], statistics[n])) if n in wanted else c for n, c in columns.items()}

    return replace(data, arrays=scale(data.arrays), sealed=None if data.sealed is None else scale(data.sealed))


def scaled_dataset(dataset: Dataset, statistics: Mapping[str, Statistics]) -> Dataset:
    """``dataset`` as the models see it: the modalities that ask for it z-normalised."""
    wanted = [m for m in dataset.spec.modalities if m.scale == "standard" and m.name in statistics]
    arrays = {m.name: scaling(m, statistics[m.name]).apply(_tensor(dataset, m.name)).numpy() for m in wanted}
    return replace(dataset, arrays={**dataset.arrays, **arrays})


def _tensor(dataset: Dataset, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(dataset.arrays[name]))


def scaling(modality: ModalitySpec, statistics: Statistics) -> Scaling:
    """What brings the modality's features to mean 0 and deviation 1, in float32."""
    std = torch.where(statistics.varies, statistics.std, 1.0)
    return Scaling(*(part.view(modality.features).float() for part in (statistics.mean, std)))


def after_scaling(modalities: Iterable[ModalitySpec], statistics: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """The statistics that a model sees: mean 0 and deviation 1 (0 for a constant) where the modality is scaled."""
    seen = dict(statistics)
    for modality in modalities:
        known = statistics.get(modality.name)
        if known is not None and modality.scale == "standard":
            seen[modality.name] = Statistics(torch.zeros_like(known.mean), known.varies.double())
    return seen

"""Federation-wide statistics of the modalities. A site sends only sums over its present training rows."""

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
"""A feature counts as constant if its standard deviation is below this share of its root mean square, the limit of
float32: it is centered but not scaled. The limit is relative, because values may be tiny (magnetic fields in tesla)."""
ROUNDING = 1e-10
"""Tolerance between sums over the same values, since processors and GPUs add in different orders: as a share of the sum
of squares, and for the sums as a share of sqrt(count x sum of squares), which bounds them."""
BLOCK = 4 << 20
"""Bytes of stored values that are summed together. The number of rows in a block depends only on the modality's shape,
so that mapped files and copied rows give the same sums."""


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
    """Modality -> sums over this site's present rows, read block by block; modalities without rows are left out."""
    sums = {}
    for modality in data.spec.modalities:
        array = data.arrays[modality.name]
        rows = array.used_rows()
        if not len(rows):
            continue
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for block in rows.split(max(1, BLOCK // (4 * math.prod(modality.shape)))):
            values = array.stored_values(block).reshape(-1, *modality.features).flatten(1).double()
            count, total, squares = count + len(values), total + values.sum(0), squares + values.square_().sum(0)
        sums[modality.name] = (float(count), total.tolist(), squares.tolist())
    return sums


def same_values(one: Sums, other: Sums) -> bool:
    """Whether both may be sums over the same values: equal within ``ROUNDING``."""
    (count, *sums), (other_count, *other_sums) = one, other
    if count != other_count or list(map(len, sums)) != list(map(len, other_sums)):
        return False
    mine, theirs = np.asarray(sums), np.asarray(other_sums)
    slack = ROUNDING * np.stack([np.sqrt(count * mine[1]), mine[1]])
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        near = np.abs(mine - theirs) < slack
    return bool((near | (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))).all())


def combine(sites: Iterable[Mapping[str, Sums]]) -> dict[str, Statistics]:
    """Modality -> statistics over all sites, added in the given order (pass the sites sorted by name)."""
    totals: dict[str, list[Tensor]] = {}
    for site in sites:
        for name, (count, sums, squares) in site.items():
            parts = [torch.tensor(values, dtype=torch.float64) for values in ([count], sums, squares)]
            known = totals.get(name)
            totals[name] = parts if known is None else [a + b for a, b in zip(known, parts, strict=True)]
    statistics = {}
    for name, (total, total_sums, total_squares) in totals.items():
        mean = total_sums / total
        statistics[name] = Statistics(mean, (total_squares / total - mean**2).clamp(min=0).sqrt())
    return statistics


def scaled(data: SiteData, statistics: Mapping[str, Statistics]) -> SiteData:
    """``data``, z-normalized in the modalities that request it (``ModalitySpec.scale``)."""
    wanted = scalings(data.spec.modalities, statistics)
    if not wanted:
        return data

    def scale(arrays: dict[str, ModalityArray]) -> dict[str, ModalityArray]:
        return {name: array.scaled(wanted[name]) if name in wanted else array for name, array in arrays.items()}

    return replace(data, arrays=scale(data.arrays), sealed=None if data.sealed is None else scale(data.sealed))


def scaled_dataset(dataset: Dataset, statistics: Mapping[str, Statistics]) -> Dataset:
    """``dataset``, z-normalized in the modalities that request it, as the models see it."""
    arrays = dict(dataset.arrays)
    for name, scaling in scalings(dataset.spec.modalities, statistics).items():
        arrays[name] = scaling.apply(torch.from_numpy(np.asarray(dataset.arrays[name]))).numpy()
    return replace(dataset, arrays=arrays)


def scalings(modalities: Iterable[ModalitySpec], statistics: Mapping[str, Statistics]) -> dict[str, Scaling]:
    """Modality -> the scaling, in float32, to mean 0 and standard deviation 1; only for modalities that request it."""
    found = {}
    for modality in modalities:
        if modality.scale == "standard" and modality.name in statistics:
            known = statistics[modality.name]
            std = torch.where(known.varies, known.std, 1.0)
            found[modality.name] = Scaling(*(part.view(modality.features).float() for part in (known.mean, std)))
    return found


def after_scaling(modalities: Iterable[ModalitySpec], statistics: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """The statistics that a model sees: mean 0 and deviation 1 (0 for a constant) if the modality is scaled."""
    seen = dict(statistics)
    for modality in modalities:
        known = statistics.get(modality.name)
        if known is not None and modality.scale == "standard":
            seen[modality.name] = Statistics(torch.zeros_like(known.mean), known.varies.double())
    return seen

"""From present modalities to absent ones: encode, map along trained mappings, combine the sources, decode."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedrecon_core.generators import Gaussian, mean_value
from fedrecon_core.state import Groups, decoder_group, encoder_group, mapping_group
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec, Likelihood, Rows

Route = tuple[str, ...]
"""The mapping groups from a source's latent to a target's, in order."""
LEAST_TEMPER = 0.01
"""Minimum weight of a source: a mapping that explains nothing still counts if there is no other source."""


def find_routes(names: Sequence[str], usable: Callable[[str], bool], chain: bool) -> dict[tuple[str, str], Route]:
    """(source, target) -> the shortest path through usable mappings from a usable encoder to a usable decoder.

    Without ``chain`` only direct mappings count. Ties go to the modality that comes first.
    """
    longest = len(names) if chain else 1
    routes: dict[tuple[str, str], Route] = {}
    for source in names:
        if not usable(encoder_group(source)):
            continue
        found: dict[str, Route] = {source: ()}
        queue = deque([source])
        while queue:  # breadth first
            here = queue.popleft()
            for target in names:
                step = mapping_group(here, target)
                if target not in found and len(found[here]) < longest and usable(step):
                    found[target] = (*found[here], step)
                    queue.append(target)
        del found[source]
        routes.update({(source, target): route for target, route in found.items() if usable(decoder_group(target))})
    return routes


class Estimate(NamedTuple):
    """A distribution over an absent latent from one source, with the quality of its route; ``places`` int64 [R] are the
    positions of its rows in the batch."""

    source: str
    quality: float
    latent: Gaussian
    places: Tensor


Combined = list[tuple[str, Tensor, Tensor]]
"""(suffix of the slot, latents [R, Z], positions in the batch int64 [R]) of each reconstruction."""


def product(estimates: list[Estimate], size: int) -> Combined:
    """The mean of the product of the sources' Gaussians, each tempered (raised) to its quality."""
    if not estimates:
        return []
    first = estimates[0].latent.mean
    precision, weighted = (torch.zeros(size, first.shape[1], device=first.device) for _ in range(2))
    for _, quality, latent, index in estimates:
        strength = quality * torch.exp(-latent.log_variance)
        precision.index_add_(0, index, strength)
        weighted.index_add_(0, index, strength * latent.mean)
    index = torch.nonzero(precision[:, 0] > 0).flatten()
    return [("", weighted[index] / precision[index], index)]


def best(estimates: list[Estimate], size: int) -> Combined:
    """The mean from the source of the highest quality alone."""
    if not estimates:
        return []
    first = estimates[0].latent.mean
    z, filled = first.new_zeros(size, first.shape[1]), torch.zeros(size, dtype=torch.bool, device=first.device)
    for _, _, latent, index in sorted(estimates, key=lambda estimate: estimate.quality):
        z[index], filled[index] = latent.mean, True
    index = torch.nonzero(filled).flatten()
    return [("", z[index], index)]


def each(estimates: list[Estimate], size: int) -> Combined:
    """One reconstruction per source."""
    return [(f"/{source}", latent.mean, index) for source, _, latent, index in estimates]


COMBINE: dict[str, Callable[[list[Estimate], int], Combined]] = {"product": product, "best": best, "each": each}
"""Value of ``recovery.sources`` -> how several sources of one modality are combined."""


@dataclass(frozen=True)
class Reconstructor:
    """One set of generators and mappings (the frozen global one or the local one) that can fill a batch.

    ``quality``: mapping group -> validation score; ``own``: the modalities with a trained generator; ``sources``: how
    several present sources are combined.
    """

    spec: DatasetSpec
    groups: Groups
    likelihoods: dict[str, Likelihood]
    routes: dict[tuple[str, str], Route]
    quality: dict[str, float]
    sources: Literal["product", "best", "each"] = "product"
    own: frozenset[str] = frozenset()

    def encode(self, name: str, values: Tensor, lengths: Tensor | None = None) -> Gaussian:
        """q(z_m given x_m) for values [R, *shape] of modality ``name``."""
        return Gaussian(*self.groups[encoder_group(name)](values, lengths))

    def decode(self, name: str, z: Tensor) -> Tensor:
        """[R, *shape]: the mean of p(x_m given z_m)."""
        return mean_value(self.likelihoods[name], self.groups[decoder_group(name)](z))

    def transport(self, z: Tensor, route: Route) -> Gaussian:
        """Apply the mappings of ``route``: each passes on its mean, the last one returns its distribution."""
        *first, last = route
        for step in first:
            z = self.groups[step](z).mean
        mapped: Gaussian = self.groups[last](z)
        return mapped

    def score(self, route: Route) -> float:
        """The quality of a route: the product of its mappings' scores. A mapping without a score counts as the worst
        that has one; if none has, all count the same."""
        unknown = min(self.quality.values(), default=1.0)
        return max(math.prod(self.quality.get(step, unknown) for step in route), LEAST_TEMPER)

    def fills(self, batch: Batch, slot: str) -> list[Fill]:
        """Mean reconstructions of the absent modalities of ``batch``, each of weight 1.

        Sequences have the full length, since the length of an absent one is unknown.
        """
        posteriors = {}
        for source in sorted({source for source, _ in self.routes}, key=self.spec.names.index):
            rows = batch.inputs[source]
            if len(rows.index):
                posteriors[source] = (self.encode(source, rows.values, rows.lengths), rows.index)
        fills = []
        for column, target in enumerate(self.spec.names):
            absent = ~batch.present[:, column]
            estimates = []
            for source, (posterior, index) in posteriors.items():
                route = self.routes.get((source, target))
                needed = absent[index]
                if route is not None and bool(needed.any()):
                    latent = self.transport(posterior.mean[needed], route)
                    estimates.append(Estimate(source, self.score(route), latent, index[needed]))
            for suffix, z, index in COMBINE[self.sources](estimates, batch.size):
                fills.append(self._fill(target, f"{slot}{suffix}", z, index))
        return fills

    def self_fills(self, batch: Batch, slot: str) -> list[Fill]:
        """Self-reconstructions of the present modalities, for ``reconstruct: all``."""
        fills = []
        for name in self.spec.names:
            rows = batch.inputs[name]
            if name in self.own and len(rows.index):
                z = self.encode(name, rows.values, rows.lengths).mean
                fills.append(self._fill(name, f"{slot}/self", z, rows.index))
        return fills

    def _fill(self, name: str, slot: str, z: Tensor, index: Tensor) -> Fill:
        return Fill(name, slot, Rows(self.decode(name, z), index), torch.ones(len(index), device=z.device))

    def translates(self, names: tuple[str, str]) -> bool:
        """Whether (source, target) has a trained path; (m, m) is self-reconstruction."""
        source, target = names
        return names in self.routes or (source == target and source in self.own)

    def translate(self, values: Tensor, names: tuple[str, str], sample: bool = False) -> Tensor:
        """x_m [R, *shape] -> x_n. ``sample`` draws z_n from its distribution, for generation and uncertainty; otherwise
        its mean is decoded."""
        source, target = names
        z = self.encode(source, values)
        mapped = z if source == target else self.transport(z.mean, self.routes[names])
        return self.decode(target, mapped.sample() if sample else mapped.mean)


def split_weight(fills: Sequence[Fill], names: Sequence[str], size: int, weight: float) -> list[Fill]:
    """Split ``weight`` equally among the R reconstructions of one modality of one sample: w / R each."""
    columns = {name: column for column, name in enumerate(names)}
    counts = torch.zeros(size, len(names))
    for fill in fills:
        counts[fill.rows.index.cpu(), columns[fill.modality]] += 1
    return [
        replace(fill, weight=(weight / counts[fill.rows.index.cpu(), columns[fill.modality]]).to(fill.weight.device))
        for fill in fills
    ]

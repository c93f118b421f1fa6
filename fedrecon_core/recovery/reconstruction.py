"""From present modalities to absent ones: encode, travel through trained mappings, combine the sources, decode."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedrecon_core.generators.vae import Gaussian
from fedrecon_core.modalities.likelihood import mean_value
from fedrecon_core.state import Groups, decoder_group, encoder_group, mapping_group
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec, Likelihood, Rows

Route = tuple[str, ...]
"""The mapping groups from a source's latent to a target's, in order."""
LEAST_TEMPER = 0.01
"""A mapping that explains nothing still counts a little: it is the only word on a target where no other source is."""


def find_routes(names: Sequence[str], usable: Callable[[str], bool], chain: bool) -> dict[tuple[str, str], Route]:
    """(source, target) -> the shortest path through usable mappings from a usable encoder to a usable decoder.

    Without ``chain`` only direct mappings count. Ties go to the modality that comes first.
    """
    routes: dict[tuple[str, str], Route] = {}
    for source in names:
        if usable(encoder_group(source)):
            found = _reach(source, names, usable, longest=len(names) if chain else 1)
            routes.update({(source, target): route for target, route in found.items() if usable(decoder_group(target))})
    return routes


def _reach(source: str, names: Sequence[str], usable: Callable[[str], bool], longest: int) -> dict[str, Route]:
    """Breadth-first over mappings: target -> shortest route."""
    found: dict[str, Route] = {source: ()}
    queue = deque([source])
    while queue:
        here = queue.popleft()
        for target in names:
            step = mapping_group(here, target)
            if target not in found and len(found[here]) < longest and usable(step):
                found[target] = (*found[here], step)
                queue.append(target)
    del found[source]
    return found


@dataclass(frozen=True)
class Reconstructor:
    """One set of generators and mappings (the frozen global or the local one) that can fill a batch.

    ``quality`` maps a mapping group to its validated score; ``own`` are the modalities with a trained generator;
    ``sources`` says what several present sources do.
    """

    spec: DatasetSpec
    groups: Groups
    likelihoods: dict[str, Likelihood]
    routes: dict[tuple[str, str], Route]
    quality: dict[str, float]
    sources: Literal["product", "best", "each"] = "product"
    own: frozenset[str] = frozenset()

    def transport(self, z: Tensor, route: Route) -> Gaussian:
        """T along ``route``: means are handed on, the last mapping gives the distribution."""
        *first, last = route
        for step in first:
            z = self.groups[step](z).mean
        mapped: Gaussian = self.groups[last](z)
        return mapped

    def score(self, route: Route) -> float:
        """The validated quality of a route: the product of its mappings'. A mapping without a score of its own counts
        like the worst that has one; where none has, all count alike."""
        unknown = min(self.quality.values(), default=1.0)
        return max(math.prod(self.quality.get(step, unknown) for step in route), LEAST_TEMPER)

    def fills(self, batch: Batch, slot: str) -> list[Fill]:
        """Mean reconstructions of the absent modalities of ``batch``, each of weight 1; sequences in full length, since
        the length of what is absent is not known."""
        latents = self._latents(batch)
        combine = {"product": _product, "best": _best, "each": _each}[self.sources]
        made = []
        for target in self.spec.names:
            absent = ~batch.present[:, self.spec.names.index(target)]
            estimates = self._estimates(latents, target, absent)
            for label, z, index in combine(estimates, batch.size):
                made.append(self._fill(target, f"{slot}{label}", z, index))
        return made

    def self_fills(self, batch: Batch, slot: str) -> list[Fill]:
        """Self-reconstructions of the present modalities, for ``reconstruct: all``."""
        present = [name for name in self.spec.names if name in self.own and len(batch.inputs[name].index)]
        return [
            self._fill(name, f"{slot}/self", self._encode(name, batch).mean, batch.inputs[name].index)
            for name in present
        ]

    def _latents(self, batch: Batch) -> dict[str, tuple[Gaussian, Tensor]]:
        """q(z_m given x_m) of every source with a route, and the places in the batch of its rows."""
        sources = sorted({source for source, _ in self.routes}, key=self.spec.names.index)
        found = {}
        for name in sources:
            if len(batch.inputs[name].index):
                found[name] = (self._encode(name, batch), batch.inputs[name].index)
        return found

    def _encode(self, name: str, batch: Batch) -> Gaussian:
        rows = batch.inputs[name]
        return Gaussian(*self.groups[encoder_group(name)](rows.values, rows.lengths))

    def _estimates(
        self, latents: dict[str, tuple[Gaussian, Tensor]], target: str, absent: Tensor
    ) -> list[tuple[str, float, Gaussian, Tensor]]:
        """(source, quality, distribution over z_target, places) from every source that has a route."""
        estimates = []
        for source, (z, index) in latents.items():
            route = self.routes.get((source, target))
            wanted = absent[index]
            if route is not None and bool(wanted.any()):
                mapped = self.transport(z.mean[wanted], route)
                estimates.append((source, self.score(route), mapped, index[wanted]))
        return estimates

    def _fill(self, name: str, slot: str, z: Tensor, index: Tensor) -> Fill:
        values = mean_value(self.likelihoods[name], self.groups[decoder_group(name)](z))
        return Fill(name, slot, Rows(values, index), torch.ones(len(index), device=z.device))

    def translates(self, names: tuple[str, str]) -> bool:
        """Whether (source, target) has a trained path; (m, m) is self-reconstruction."""
        source, target = names
        return names in self.routes or (source == target and source in self.own)

    def translate(self, values: Tensor, names: tuple[str, str], sample: bool = False) -> Tensor:
        """x_m [R, *shape] -> x_n. ``sample`` draws z_n from its distribution, for generation and uncertainty; otherwise
        its mean is decoded."""
        source, target = names
        z = Gaussian(*self.groups[encoder_group(source)](values, None))
        mapped = z if source == target else self.transport(z.mean, self.routes[names])
        latent = mapped.sample() if sample else mapped.mean
        return mean_value(self.likelihoods[target], self.groups[decoder_group(target)](latent))


Estimate = tuple[str, float, Gaussian, Tensor]
Combined = list[tuple[str, Tensor, Tensor]]


def _product(estimates: list[Estimate], size: int) -> Combined:
    """Product of the sources' Gaussians, each tempered (raised) to its quality; the mean of the result."""
    if not estimates:
        return []
    width, device = estimates[0][2].mean.shape[1], estimates[0][2].mean.device
    precision, weighted = torch.zeros(size, width, device=device), torch.zeros(size, width, device=device)
    for _, quality, gaussian, index in estimates:
        strength = quality * torch.exp(-gaussian.log_variance)
        precision.index_add_(0, index, strength)
        weighted.index_add_(0, index, strength * gaussian.mean)
    index = torch.nonzero(precision[:, 0] > 0).flatten()
    return [("", weighted[index] / precision[index], index)]


def _best(estimates: list[Estimate], size: int) -> Combined:
    """The mean from the source of the highest quality alone."""
    if not estimates:
        return []
    first = estimates[0][2].mean
    z, seen = first.new_zeros(size, first.shape[1]), torch.zeros(size, dtype=torch.bool, device=first.device)
    for _, _, gaussian, index in sorted(estimates, key=lambda estimate: estimate[1]):
        z[index], seen[index] = gaussian.mean, True
    index = torch.nonzero(seen).flatten()
    return [("", z[index], index)]


def _each(estimates: list[Estimate], size: int) -> Combined:
    """One reconstruction per source."""
    return [(f"/{source}", gaussian.mean, index) for source, _, gaussian, index in estimates]


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

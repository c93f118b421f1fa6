"""``fedrecon``: generators, mappings and two reconstructions of each absent modality (Liu et al. 2025, Algorithm 1).

A local round has three stages: a VAE per present modality; then, with the generators frozen, a mapping model per pair
of modalities that some sample has together; then the task model on present tokens, on reconstructions by the frozen
global generators (GGFS) and on reconstructions by the local ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from pydantic import Field

from fedrecon_core.config import ModelConfig
from fedrecon_core.generators import Mapping as MappingModel
from fedrecon_core.recovery.base import Builder, DropoutParams, Recovery
from fedrecon_core.recovery.objectives import GeneratorObjective, LatentCache, MappingObjective, MappingParams
from fedrecon_core.recovery.reconstruction import Reconstructor, find_routes, split_weight
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, Objective, PhaseName, SiteStore, Stage, set_frozen
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.state import (
    HEAD_GROUP,
    Groups,
    TransferPlan,
    decoder_group,
    encoder_group,
    extractor_group,
    mapping_group,
    read_group,
    write_group,
)
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec, Likelihood, StrictModel


class FreezingParams(StrictModel):
    """The global generator freezing strategy. ``refresh: round`` freezes the generators of each round (Algorithm 1),
    ``deployment`` keeps the first trained ones that the site received (section 4.3)."""

    enabled: bool = True
    refresh: Literal["round", "deployment"] = "round"


class FedReconParams(DropoutParams):
    """The choices of the method.

    ``weight`` is w, the attention weight of all reconstructions of one modality together; with 0 none are made, which
    is exactly ``mask``. ``weighting: learned`` starts at w and learns it. ``generator_rounds``: generators train only
    in this number of first rounds (null: in all, Algorithm 1) and are the same everywhere afterwards, so that a mapping
    is learned between exactly the latents that it will be used on. A modality whose sites train in none of these rounds
    is never reconstructed, so leave time for all of them (``sites.fraction``). Modalities hidden by
    ``modality_dropout`` are reconstructed like absent ones.
    """

    name: str = "fedrecon"
    latent: int = Field(default=32, ge=1)
    beta: float = Field(default=1.0, ge=0)
    likelihood: Likelihood | None = Field(default=None, description="overrides the data set's own")
    mapping: MappingParams = MappingParams()
    ggfs: FreezingParams = FreezingParams()
    weight: float = Field(default=1.0, ge=0)
    weighting: Literal["fixed", "learned"] = "fixed"
    reconstruct: Literal["absent", "all"] = "absent"
    sources: Literal["product", "best", "each"] = "product"
    chain: bool = True
    warmup_rounds: int = Field(default=2, ge=0)
    generator_rounds: int | None = Field(default=None, ge=1)


@RECOVERIES.register("fedrecon")
class FedRecon(Recovery):
    """FedRecon for any number of modalities; rules that the paper leaves open are keys of ``FedReconParams``."""

    Params = FedReconParams

    def __init__(self, config: ModelConfig, spec: DatasetSpec) -> None:
        super().__init__(config, spec)
        self.likelihoods = {m.name: self.params.likelihood or m.likelihood for m in spec.modalities}
        self.active: bool = self.params.weight > 0

    # --- models -----------------------------------------------------------------------------------------------

    def builders(self) -> dict[str, Builder]:
        """The task groups, an encoder and a decoder per modality, a mapping per ordered pair."""
        builders = super().builders()
        if not self.active:
            return builders
        latent = self.params.latent
        for name, kind in self.kinds.items():
            builders[encoder_group(name)] = partial(kind.encoder, latent)
            builders[decoder_group(name)] = partial(kind.decoder, latent)
        for pair in ordered_pairs(self.spec.names):
            builders[mapping_group(*pair)] = partial(MappingModel, latent, latent, self.params.mapping.hidden)
        return builders

    def learned_weight(self) -> float | None:
        """log w where the fusion learns it."""
        learned = self.active and self.params.weighting == "learned"
        return math.log(self.params.weight) if learned else None

    def plan(self, modalities: Sequence[str]) -> TransferPlan:
        """The transfer plan of a site with ``modalities``.

        Download: the encoders of these modalities, all decoders and extractors, the mappings from these modalities and,
        for chains, those to a modality that the site lacks. Upload: generators and mappings of these modalities, and
        the task model.
        """
        if not self.active:
            return super().plan(modalities)
        names, held = self.spec.names, set(modalities)
        task = [HEAD_GROUP, *map(extractor_group, names)]
        own = [group(name) for name in modalities for group in (encoder_group, decoder_group)]
        trained = [mapping_group(*pair) for pair in ordered_pairs(modalities)]
        needed = [
            mapping_group(source, target)
            for source, target in ordered_pairs(names)
            if source in held or (self.params.chain and target not in held)
        ]
        return TransferPlan.of([*task, *own, *map(decoder_group, names), *needed], [*task, *own, *trained])

    # --- the local round --------------------------------------------------------------------------------------

    def freeze(self, groups: Groups, plan: TransferPlan, global_info: GlobalInfo, store: SiteStore) -> Groups:
        """The trained global generators and mappings of this round or, with ``refresh: deployment``, the first ones
        that this site could use. Groups that the site does not train itself are not copied."""
        if not (self.active and self.params.ggfs.enabled):
            return {}
        trained = [
            name for name in plan.download if global_info.trained.get(name, 0) > 0 and not name.startswith("task.")
        ]
        frozen = {n: copy.deepcopy(groups[n]) if n in plan.upload else groups[n] for n in trained}
        if self.params.ggfs.refresh == "round" or not self.reconstructs(global_info):
            return frozen
        saved = store.load("frozen")
        if not saved:
            store.save("frozen", {name: read_group(module) for name, module in frozen.items()})
            return frozen
        first = self.build(saved)
        for name, state in saved.items():
            write_group(first[name].to(next(groups[name].parameters()).device), state)
            set_frozen(first[name], frozen=True)
        return first

    def stages(self, context: LocalContext) -> list[Stage]:
        """A generator stage per present modality while generators train, a mapping stage per pair, the task stage."""
        if not self.active:
            return super().stages(context)

        def stage(
            name: str, phase: PhaseName, trains: tuple[str, ...], objective: Callable[[LocalContext], Objective]
        ) -> Stage:
            return Stage(name, phase, trains, tuple(sorted(set(context.groups) - set(trains))), objective)

        stages = []
        held = [name for name in context.data.modalities if encoder_group(name) in context.groups]
        last = self.params.generator_rounds
        if last is None or context.global_info.round <= int(last):
            for name in held:
                generator = partial(
                    GeneratorObjective, name=name, likelihood=self.likelihoods[name], beta=self.params.beta
                )
                trains = (encoder_group(name), decoder_group(name))
                stages.append(stage(f"generator.{name}", "generator", trains, generator))
        latents = LatentCache(context)
        for pair in ordered_pairs(held):
            if len(context.data.having(*pair)):
                likelihood = self.likelihoods[pair[1]]
                objective = partial(
                    MappingObjective, latents=latents, names=pair, params=self.params.mapping, likelihood=likelihood
                )
                group = mapping_group(*pair)
                stages.append(stage(group, "mapping", (group,), objective))
        return [*stages, self.task_stage(context)]

    # --- filling ----------------------------------------------------------------------------------------------

    def reconstructs(self, global_info: GlobalInfo) -> bool:
        """Whether absent modalities are reconstructed in this round: after the warm-up, unless the weight is 0."""
        return self.active and global_info.round > int(self.params.warmup_rounds)

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """Mean reconstructions by one set of groups: the global ones, in evaluation and inference."""
        translator = self.translator(groups, global_info) if self.reconstructs(global_info) else None
        return [] if translator is None else self._weighted_fills(batch, {"global": translator})

    def recover_locally(self, batch: Batch, context: LocalContext) -> list[Fill]:
        """Reconstructions by the frozen global models and by the local ones.

        A local mapping is used only if it trained in this round: otherwise its encoder has changed since it trained.
        """
        if not self.reconstructs(context.global_info):
            return []
        quality, reconstructors = context.global_info.quality, {}
        if self.params.ggfs.enabled:
            reconstructors["global"] = self.reconstructor(context.received, set(context.received), quality)
        usable = {name for name in context.groups if name.startswith("generator.")}
        usable |= {name for name in context.trained_here if name.startswith("mapping.")}
        reconstructors["local"] = self.reconstructor(context.groups, usable, {**quality, **context.quality})
        return self._weighted_fills(batch, reconstructors)

    def translator(self, groups: Groups, global_info: GlobalInfo) -> Reconstructor | None:
        """A reconstructor over the global generators and mappings that were ever aggregated."""
        if not self.active:
            return None
        usable = {name for name in groups if global_info.trained.get(name, 0) > 0}
        return self.reconstructor(groups, usable, global_info.quality)

    def reconstructor(self, groups: Groups, usable: set[str], quality: dict[str, float]) -> Reconstructor:
        """A reconstructor over ``groups``, of which ``usable`` are trained."""
        routes = find_routes(self.spec.names, lambda name: name in usable, self.params.chain)
        own = frozenset(n for n in self.spec.names if {encoder_group(n), decoder_group(n)} <= usable)
        return Reconstructor(self.spec, groups, self.likelihoods, routes, quality, self.params.sources, own)

    def _weighted_fills(self, batch: Batch, reconstructors: Mapping[str, Reconstructor]) -> list[Fill]:
        """The fills of all reconstructors (slot -> reconstructor), each of weight w / R. A fusion that learns log w
        itself gets 1 / R."""
        fills: list[Fill] = []
        for slot, reconstructor in reconstructors.items():
            fills += reconstructor.fills(batch, slot)
            if self.params.reconstruct == "all":
                fills += reconstructor.self_fills(batch, slot)
        weight = 1.0 if self.params.weighting == "learned" else self.params.weight
        return split_weight(fills, self.spec.names, batch.size, weight)


def ordered_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """All (source, target) with source != target."""
    return [(source, target) for source in names for target in names if source != target]

"""``fedrecon``: generators, mappings and two reconstructions of what is absent (Liu et al. 2025, Algorithm 1).

A local round has three stages: a VAE per present modality, then, with the generators frozen, a mapping model per pair
of modalities that some sample has together, then the task model on present tokens and on reconstructions by the frozen
global generators (GGFS) and by the local ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from fedrecon_core.config import ModelConfig
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.generators.mapping import TERMS, Mapping
from fedrecon_core.recovery.base import Builder, Recovery
from fedrecon_core.recovery.dropout import DropoutParams
from fedrecon_core.recovery.generation import GeneratorObjective, LatentCache, MappingObjective
from fedrecon_core.recovery.reconstruction import Reconstructor, find_routes, split_weight
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, SiteStore, Stage, set_frozen
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
from fedrecon_core.types import Batch, DatasetSpec, Likelihood, StrictModel, Widths


class MappingParams(StrictModel):
    """``loss``: ``forward``; ``paper`` (Eq. 5: alpha * KL + reconstruction); or weights of the terms ``forward``,
    ``kl``, ``reconstruction``, ``moments``. ``holdout``: share of a site's pairs that only validates the mapping."""

    hidden: Widths = (128, 128)
    loss: Literal["forward", "paper"] | dict[Literal["forward", "kl", "reconstruction", "moments"], float] = "forward"
    alpha: float = Field(default=1.0, ge=0)
    holdout: float = Field(default=0.1, ge=0, lt=1)

    def terms(self) -> dict[str, float]:
        """Term name -> weight."""
        if self.loss == "forward":
            return {"forward": 1.0}
        if self.loss == "paper":
            return {"kl": self.alpha, "reconstruction": 1.0}
        return {str(name): weight for name, weight in self.loss.items()}

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        if not any(weight > 0 for weight in self.terms().values()):
            expected = f"expected a term with a weight above 0 (of {', '.join(TERMS)})"
            raise InvalidValueError("loss", f"{expected}, found {self.terms()}")
        if self.loss != "paper" and self.alpha != 1.0:
            raise InvalidValueError("alpha", f"expected its default, 1.0, unless loss is paper, found {self.alpha}")
        return self


class FreezingParams(StrictModel):
    """The global generator freezing strategy. ``refresh: round`` freezes what each round brings (Algorithm 1),
    ``deployment`` keeps the first trained generators that the site received (section 4.3)."""

    enabled: bool = True
    refresh: Literal["round", "deployment"] = "round"


class FedReconParams(DropoutParams):
    """Every choice of the method. ``weight`` is w, the attention weight of one modality's reconstructions together
    (0: none are made, which is exactly ``mask``); ``weighting: learned`` starts there and learns it.
    ``generator_rounds``: generators train in the first so many rounds (null: in all, Algorithm 1) and are the same
    everywhere afterwards, so that a mapping is learnt between the very latents that it will be used on. A modality
    whose sites took part in none of these rounds is never reconstructed: leave time for all (``sites.fraction``).
    What ``modality_dropout`` hides is reconstructed like what is absent."""

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
    """Any number of modalities; the rules that the paper leaves open are keys of ``FedReconParams``."""

    Params = FedReconParams

    def __init__(self, config: ModelConfig, spec: DatasetSpec) -> None:
        super().__init__(config, spec)
        self.likelihoods = {m.name: self.params.likelihood or m.likelihood for m in spec.modalities}
        self.active: bool = self.params.weight > 0

    # --- models -----------------------------------------------------------------------------------------------

    def builders(self) -> dict[str, Builder]:
        """The task groups, an encoder and a decoder per modality, a mapping per ordered pair."""
        made = super().builders()
        if not self.active:
            return made
        latent, hidden, names = self.params.latent, self.params.mapping.hidden, self.spec.names
        for name in names:
            made[encoder_group(name)] = lambda kind=self.kinds[name]: kind.encoder(latent)  # type: ignore[misc]
            made[decoder_group(name)] = lambda kind=self.kinds[name]: kind.decoder(latent)  # type: ignore[misc]
        for source, target in self._pairs(names):
            made[mapping_group(source, target)] = lambda: Mapping(latent, latent, hidden)
        return made

    def learned_weight(self) -> float | None:
        """log w where the fusion learns it."""
        learned = self.active and self.params.weighting == "learned"
        return math.log(self.params.weight) if learned else None

    @staticmethod
    def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
        return [(source, target) for source in names for target in names if source != target]

    # --- who needs what ---------------------------------------------------------------------------------------

    def plan(self, modalities: Sequence[str]) -> TransferPlan:
        """Down: encoders of what the site has, decoders, extractors, the mappings out of what it has and, for chains,
        those that end at a modality that it lacks. Up: generators and mappings of what it has, the task model."""
        if not self.active:
            return super().plan(modalities)
        names, held = self.spec.names, set(modalities)
        task = [HEAD_GROUP, *map(extractor_group, names)]
        own = [group(name) for name in modalities for group in (encoder_group, decoder_group)]
        trained = [mapping_group(*pair) for pair in self._pairs(modalities)]
        needed = [
            mapping_group(source, target)
            for source, target in self._pairs(names)
            if source in held or (self.params.chain and target not in held)
        ]
        return TransferPlan.of([*task, *own, *map(decoder_group, names), *needed], [*task, *own, *trained])

    # --- the local round --------------------------------------------------------------------------------------

    def freeze(self, groups: Groups, plan: TransferPlan, global_info: GlobalInfo, store: SiteStore) -> Groups:
        """The trained global generators and mappings of this round or, with ``refresh: deployment``, the first ones
        that this site could use. What the site does not train itself needs no copy."""
        if not (self.active and self.params.ggfs.enabled):
            return {}
        trained = [
            name for name in plan.download if global_info.trained.get(name, 0) > 0 and not name.startswith("task.")
        ]
        frozen = {n: copy.deepcopy(groups[n]) if n in plan.upload else groups[n] for n in trained}
        if self.params.ggfs.refresh == "round" or not self._tokens(global_info):
            return frozen
        kept = store.load("frozen")
        if not kept:
            store.save("frozen", {name: read_group(module) for name, module in frozen.items()})
            return frozen
        first = self.build(kept)
        for name, state in kept.items():
            write_group(first[name].to(next(groups[name].parameters()).device), state)
            set_frozen(first[name], frozen=True)
        return first

    def stages(self, context: LocalContext) -> list[Stage]:
        """A generator stage per present modality while generators train, a mapping stage per pair, the task stage."""
        if not self.active:
            return super().stages(context)
        latents = LatentCache(context)
        held = [name for name in context.data.modalities if encoder_group(name) in context.groups]
        moving = [] if self._settled(context.global_info) else held
        generators = [self._generator_stage(name, context) for name in moving]
        mappings = [
            self._mapping_stage(source, target, context, latents)
            for source, target in self._pairs(held)
            if len(context.data.having(source, target))
        ]
        return [*generators, *mappings, self.task_stage(context)]

    def _generator_stage(self, name: str, context: LocalContext) -> Stage:
        trains = (encoder_group(name), decoder_group(name))
        return Stage(
            name=f"generator.{name}",
            phase="generator",
            trains=trains,
            freezes=tuple(sorted(set(context.groups) - set(trains))),
            objective=lambda shop: GeneratorObjective(shop, name, self.likelihoods[name], self.params.beta),
        )

    def _mapping_stage(self, source: str, target: str, context: LocalContext, latents: LatentCache) -> Stage:
        trains = (mapping_group(source, target),)
        return Stage(
            name=trains[0],
            phase="mapping",
            trains=trains,
            freezes=tuple(sorted(set(context.groups) - set(trains))),
            objective=lambda shop: MappingObjective(shop, latents, (source, target), self),
        )

    # --- filling ----------------------------------------------------------------------------------------------

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """Mean reconstructions by one set of groups: the global ones, at evaluation and at inference."""
        if not self._tokens(global_info):
            return []
        maker = self.reconstructor(
            groups, {name for name in groups if global_info.trained.get(name, 0) > 0}, global_info.quality
        )
        return self._weighted(self._made(maker, batch, "global"), batch)

    def recover_locally(self, batch: Batch, context: LocalContext) -> list[Fill]:
        """Reconstructions by the frozen global models and by the local ones, side by side."""
        if not self._tokens(context.global_info):
            return []
        fills: list[Fill] = []
        if self.params.ggfs.enabled:
            frozen = self.reconstructor(context.received, set(context.received), context.global_info.quality)
            fills += self._made(frozen, batch, "global")
        local = self.reconstructor(
            context.groups, self._local(context), {**context.global_info.quality, **context.quality}
        )
        return self._weighted([*fills, *self._made(local, batch, "local")], batch)

    def reconstructor(self, groups: Groups, usable: set[str], quality: dict[str, float]) -> Reconstructor:
        """The maker of reconstructions over ``groups`` of which ``usable`` are trained."""
        routes = find_routes(self.spec.names, lambda name: name in usable, self.params.chain)
        own = frozenset(n for n in self.spec.names if {encoder_group(n), decoder_group(n)} <= usable)
        return Reconstructor(self.spec, groups, self.likelihoods, routes, quality, self.params.sources, own)

    def _tokens(self, global_info: GlobalInfo) -> bool:
        return self.active and global_info.round > int(self.params.warmup_rounds)

    def _settled(self, global_info: GlobalInfo) -> bool:
        last = self.params.generator_rounds
        return last is not None and global_info.round > int(last)

    def _local(self, context: LocalContext) -> set[str]:
        """A local mapping counts only if it trained in this round: otherwise the encoder moved away from it."""
        generators = {name for name in context.groups if name.startswith("generator.")}
        return generators | {name for name in context.trained_here if name.startswith("mapping.")}

    def _made(self, maker: Reconstructor, batch: Batch, slot: str) -> list[Fill]:
        fills = maker.fills(batch, slot)
        return [*fills, *maker.self_fills(batch, slot)] if self.params.reconstruct == "all" else fills

    def _weighted(self, fills: list[Fill], batch: Batch) -> list[Fill]:
        """w / R on each token; where the fusion learns log w itself, only the 1 / R."""
        weight = 1.0 if self.params.weighting == "learned" else self.params.weight
        return split_weight(fills, self.spec.names, batch.size, weight)

    def translator(self, groups: Groups, global_info: GlobalInfo) -> Reconstructor | None:
        """The global generators and mappings that were ever aggregated."""
        if not self.active:
            return None
        usable = {name for name in groups if global_info.trained.get(name, 0) > 0}
        return self.reconstructor(groups, usable, global_info.quality)

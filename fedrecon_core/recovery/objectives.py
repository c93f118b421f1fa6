"""Objectives of the first two stages of FedRecon: generators, and mappings between their frozen latents."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.generators import TERMS, Gaussian, Generator, Mapping, Pair
from fedrecon_core.recovery.fills import chunk_of, chunks
from fedrecon_core.recovery.stage import LocalContext, Objective
from fedrecon_core.state import decoder_group, encoder_group, mapping_group
from fedrecon_core.types import Likelihood, StrictModel, Widths

FEWEST_VALIDATED = 4
"""Minimum number of held-out pairs for a mapping's score. With fewer, it would be noise and is not reported."""


class MappingParams(StrictModel):
    """``loss``: ``forward``; ``paper`` (Eq. 5: alpha * KL + reconstruction); or weights of the terms ``forward``,
    ``kl``, ``reconstruction``, ``moments``. ``holdout``: share of a site's pairs that is used only to validate the
    mapping."""

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
    def check_loss(self) -> Self:
        """Require a positive term, and ``alpha`` only where it has an effect."""
        if not any(weight > 0 for weight in self.terms().values()):
            expected = f"expected a term with a weight above 0 (of {', '.join(TERMS)})"
            raise InvalidValueError("loss", f"{expected}, found {self.terms()}")
        if self.loss != "paper" and self.alpha != 1.0:
            raise InvalidValueError("alpha", f"expected its default, 1.0, unless loss is paper, found {self.alpha}")
        return self


class GeneratorObjective(Objective):
    """Stage 1 for one modality: the negative ELBO (Eq. 3) of the site's present rows."""

    def __init__(self, context: LocalContext, name: str, likelihood: Likelihood, beta: float) -> None:
        encoder, decoder = context.groups[encoder_group(name)], context.groups[decoder_group(name)]
        self.generator = Generator(encoder, decoder, likelihood)
        self.name, self.beta = name, beta
        self.array = context.data.arrays[name]
        self.samples = context.data.having(name)
        self.items = len(self.samples)
        lengths = self.array.lengths()
        self.lengths = None if lengths is None else lengths[self.samples]

    def loss(self, index: Tensor) -> Tensor:
        """Mean negative ELBO of the rows, in nats."""
        return self.generator.loss(self.array.take(self.samples[index]), self.beta)

    def counts(self) -> dict[str, int]:
        """Present rows, for encoder and decoder."""
        return {encoder_group(self.name): self.items, decoder_group(self.name): self.items}


class LatentCache:
    """q(z given x) of a site's present rows, encoded once per modality after the generators are frozen."""

    def __init__(self, context: LocalContext) -> None:
        self.context = context
        self._cache: dict[str, tuple[Gaussian, Tensor]] = {}

    def of(self, name: str, samples: Tensor) -> Gaussian:
        """The posteriors of ``samples``, all of which must have modality ``name``."""
        if name not in self._cache:  # all present rows, and int64 [N] the position of each sample among them, or -1
            data, encoder = self.context.data, self.context.groups[encoder_group(name)]
            having, parts = data.having(name), []
            with torch.no_grad():
                for part in chunks(len(having), data.device, chunk_of(data.spec)):
                    rows = data.arrays[name].take(having[part])
                    parts.append(encoder(rows.values, rows.lengths))
            position = torch.full((len(data),), -1, dtype=torch.long, device=data.device)
            position[having] = torch.arange(len(having), device=data.device)
            means, log_variances = zip(*parts, strict=True)
            self._cache[name] = Gaussian(torch.cat(means), torch.cat(log_variances)), position
        posterior, position = self._cache[name]
        return posterior[position[samples]]


class MappingObjective(Objective):
    """Stage 2 for one ordered pair (m, n): Eq. 5 or the terms of the config, on the samples that have both."""

    def __init__(
        self,
        context: LocalContext,
        latents: LatentCache,
        names: tuple[str, str],
        params: MappingParams,
        likelihood: Likelihood,
    ) -> None:
        """``likelihood`` is that of the target modality n."""
        source, target = names
        self.group = mapping_group(source, target)
        self.mapping: Mapping = context.groups[self.group]  # type: ignore[assignment]
        self.terms = params.terms()
        encoder, decoder = context.groups[encoder_group(target)], context.groups[decoder_group(target)]
        self.generator = Generator(encoder, decoder, likelihood)
        self.array = context.data.arrays[target]
        pairs = context.data.having(source, target)
        order = pairs[torch.randperm(len(pairs), generator=context.stream(f"holdout.{self.group}"))]
        held_out = int(params.holdout * len(pairs))
        self.held_out, self.samples = order[:held_out], order[held_out:].sort().values
        self.source, self.target = latents.of(source, self.samples), latents.of(target, self.samples)
        self._validation = (latents.of(source, self.held_out), latents.of(target, self.held_out))
        self.items = len(self.samples)

    def loss(self, index: Tensor) -> Tensor:
        """The weighted sum of the terms, mean over the pairs; z_m and z_n are drawn from their posteriors."""
        target = self.target[index]
        pair = Pair(
            mapped=self.mapping(self.source[index].sample()),
            target=target,
            sampled=target.sample(),
            rows=lambda: self.array.take(self.samples[index]),
            generator=self.generator,
        )
        losses = [weight * TERMS[name](pair).mean() for name, weight in self.terms.items() if weight]
        return torch.stack(losses).sum()

    def counts(self) -> dict[str, int]:
        """Pairs that train this mapping."""
        return {self.group: self.items}

    def quality(self) -> dict[str, float]:
        """The share of z_n's variance that T explains on held-out pairs, clipped to [0, 1]; empty for too few pairs."""
        source, target = self._validation
        if len(self.held_out) < FEWEST_VALIDATED:
            return {}
        with torch.no_grad():
            error = ((self.mapping(source.mean).mean - target.mean) ** 2).sum()
            spread = ((target.mean - target.mean.mean(dim=0)) ** 2).sum()
        explained = 1 - float(error) / max(float(spread), 1e-12)
        return {self.group: min(max(explained, 0.0), 1.0) if math.isfinite(explained) else 0.0}

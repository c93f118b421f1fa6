"""Averages of parameter groups: the weighted mean, and robust averages that a few faulty sites cannot change much.

Pure functions; pass the states in sorted site order, since floating-point sums depend on it. A robust average counts
every state the same: a site could otherwise gain influence by reporting a large weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from pydantic import Field

from fedrecon_core.config import GroupSelection
from fedrecon_core.state import State


def weighted_mean(states: Sequence[State], weights: Sequence[float]) -> State:
    """sum(w_k * state_k) / sum(w_k), tensor by tensor, accumulated in float64 and returned in the tensors' dtype.

    Raises ``ValueError`` if no weight is positive or the states have different tensors.
    """
    total = float(sum(weights))
    if not states or total <= 0:
        raise ValueError("a weighted mean needs at least one state with a positive weight")
    if any(state.keys() != states[0].keys() for state in states):
        raise ValueError("expected states with the same tensors, found different ones")
    mean = {}
    for name, first in states[0].items():
        summed = torch.zeros(first.shape, dtype=torch.float64)
        for state, weight in zip(states, weights, strict=True):
            summed.add_(state[name].double(), alpha=weight / total)
        mean[name] = summed.to(first.dtype)
    return mean


class Robust(GroupSelection):
    """A robust average instead of the mean, for the groups whose names begin with one of ``groups``. ``trim``: the
    share that ``trimmed`` cuts off at each end; ``malicious``: the number of faulty sites that ``krum`` tolerates."""

    rule: Literal["median", "trimmed", "krum"]
    groups: tuple[str, ...] = ("",)
    trim: float = Field(default=0.2, gt=0, lt=0.5)
    malicious: int = Field(default=1, ge=1)

    @property
    def least(self) -> int:
        """Minimum number of sites that must have a group."""
        return RULES[self.rule].least(self)

    def average(self, states: Sequence[State]) -> State:
        """The rule's average of at least ``least`` states."""
        return RULES[self.rule].average(states, self)


def median(states: Sequence[State], robust: Robust) -> State:
    """The median of each coordinate (Yin et al. 2018): the mean of the two middle values if their number is even."""
    return _stacked(states, lambda values: np.median(values, axis=0))


def trimmed(states: Sequence[State], robust: Robust) -> State:
    """The mean of each coordinate without the share ``trim`` of the values at each end (Yin et al. 2018)."""
    return _stacked(states, lambda values: trim_mean(values, robust.trim))


def krum(states: Sequence[State], robust: Robust) -> State:
    """The state closest to its n - f - 2 nearest neighbors (Blanchard et al. 2017, section 4), in squared L2."""
    flat = torch.stack([torch.cat([state[name].double().flatten() for name in sorted(state)]) for state in states])
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    near = distances.sort(dim=1).values[:, 1 : len(states) - robust.malicious - 1]  # the first is the state itself
    chosen = states[int(near.sum(dim=1).argmin())]
    return {name: tensor.clone() for name, tensor in chosen.items()}


def _stacked(states: Sequence[State], average: Callable[[np.ndarray], np.ndarray]) -> State:
    """``average`` over float64 [sites, *shape], tensor by tensor, in the tensors' dtype."""
    return {
        name: torch.from_numpy(np.asarray(average(np.stack([state[name].double().numpy() for state in states])))).to(
            first.dtype
        )
        for name, first in states[0].items()
    }


@dataclass(frozen=True)
class Rule:
    """``average`` of the states, and the minimum number of sites, ``least``, that it needs."""

    average: Callable[[Sequence[State], Robust], State]
    least: Callable[[Robust], int]


RULES: Mapping[str, Rule] = {
    "median": Rule(median, lambda robust: 3),
    "trimmed": Rule(trimmed, lambda robust: math.ceil(1 / robust.trim - 1e-9)),
    "krum": Rule(krum, lambda robust: 2 * robust.malicious + 3),
}

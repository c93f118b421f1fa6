"""Averages of parameter groups. Pure functions; every reduction runs in the order it is given, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedrecon_core.state import State


def weighted_mean(states: Sequence[State], weights: Sequence[float]) -> State:
    """sum(w_k * state_k) / sum(w_k), tensor by tensor, accumulated in float64 and returned in the tensors' dtype.

    Pass the states in sorted site order: floating-point sums depend on it. Raises ``ValueError`` where no weight is
    positive or the states hold different tensors.
    """
    total = float(sum(weights))
    if not states or total <= 0:
        raise ValueError("a weighted mean needs at least one state with a positive weight")
    if any(state.keys() != states[0].keys() for state in states):
        raise ValueError("the states to average hold different tensors")
    mean = {}
    for name, first in states[0].items():
        summed = torch.zeros(first.shape, dtype=torch.float64)
        for state, weight in zip(states, weights, strict=True):
            summed.add_(state[name].double(), alpha=weight / total)
        mean[name] = summed.to(first.dtype)
    return mean

"""Shapley values by exact enumeration. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

MOST = 10
"""Players whose subsets are enumerated: 1,024 values. There are no approximations here; who has more is refused."""


def shapley_values(players: Sequence[str], value: Callable[[frozenset[str]], Tensor]) -> dict[str, Tensor]:
    """Player -> its mean contribution over all orders of joining (Shapley 1953):

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! * (value(S with i) - value(S)).

    ``value`` gives a float tensor of any shape, one game per element, for every subset of ``players`` (the empty one
    too), and is asked once for each. Raises ``ValueError`` for more than ``MOST`` players.
    """
    if len(players) > MOST:
        raise ValueError(f"expected at most {MOST} players, whose subsets are enumerated, found {len(players)}")
    worth = {subset: value(subset) for subset in _subsets(players)}
    return {player: _contribution(player, len(players), worth) for player in players}


def _contribution(player: str, players: int, worth: dict[frozenset[str], Tensor]) -> Tensor:
    total = torch.zeros_like(worth[frozenset()])
    for subset, without in worth.items():
        if player not in subset:
            weight = 1 / (players * math.comb(players - 1, len(subset)))  # |S|! (n - |S| - 1)! / n!
            total = total + weight * (worth[subset | {player}] - without)
    return total


def _subsets(players: Sequence[str]) -> list[frozenset[str]]:
    """All, the small ones first; sums run in this order."""
    return [frozenset(chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)]

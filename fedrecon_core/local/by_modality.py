"""A task model used one modality at a time: contributions of modalities, and decision fusion by a random forest."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.tokens import Fill, Tokens, tokenise
from fedrecon_core.types import Batch

MOST_PLAYERS = 10
"""Maximum number of players (1,024 subsets are enumerated); Shapley values of more are refused, not approximated."""


@dataclass(frozen=True)
class ModalityViews:
    """The tokens of a batch, classified as if the samples had only some of their modalities.

    The extractors run once, the head once for each selection.
    """

    model: TaskModel
    tokens: Tokens

    @classmethod
    def of(cls, model: TaskModel, batch: Batch, fills: Sequence[Fill] = ()) -> ModalityViews:
        """Tokenise ``batch`` and its fills; a fill gives tokens of the modality that it fills."""
        return cls(model, tokenise(model.extractors, model.names, batch, fills))

    def select(self, modalities: Collection[str]) -> Tokens:
        """The tokens of ``modalities`` alone."""
        return self.tokens.of([self.model.names.index(name) for name in modalities])

    def logits(self, modalities: Collection[str]) -> Tensor:
        """[B, C] from the tokens of ``modalities`` alone; without any, the head's output for no tokens."""
        logits: Tensor = self.model.head(self.select(modalities))
        return logits

    def has_token(self, modality: str) -> Tensor:
        """bool [B]: the samples with a token of ``modality``."""
        return self.select([modality]).mask.any(dim=1)


def class_probabilities(model: TaskModel, batch: Batch, fills: Sequence[Fill]) -> Tensor:
    """float32 [B, M, C]: the class probabilities from each modality alone; uniform where it has no token."""
    views, columns = ModalityViews.of(model, batch, fills), []
    for name in model.names:
        probabilities = views.logits([name]).softmax(dim=1)
        uniform = torch.full_like(probabilities, 1 / probabilities.shape[1])
        columns.append(torch.where(views.has_token(name)[:, None], probabilities, uniform))
    return torch.stack(columns, dim=1)


def shapley_values(players: Sequence[str], value: Callable[[frozenset[str]], Tensor]) -> dict[str, Tensor]:
    """Player -> its mean contribution over all orders of joining (Shapley 1953), by exact enumeration:

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! * (value(S with i) - value(S)).

    ``value`` returns a float tensor of any shape, one game per element, for a subset of ``players``. It is called once
    for each subset, the empty one included. Raises ``ValueError`` for more than ``MOST_PLAYERS`` players.
    """
    if len(players) > MOST_PLAYERS:
        raise ValueError(f"expected at most {MOST_PLAYERS} players, whose subsets are enumerated, found {len(players)}")
    subsets = [frozenset(chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)]
    worth = {subset: value(subset) for subset in subsets}
    contributions = {}
    for player in players:
        total = torch.zeros_like(worth[frozenset()])
        for subset, without in worth.items():  # small subsets first; this order fixes the rounding of the sum
            if player not in subset:
                weight = 1 / (len(players) * math.comb(len(players) - 1, len(subset)))  # |S|! (n - |S| - 1)! / n!
                total = total + weight * (worth[subset | {player}] - without)
        contributions[player] = total
    return contributions


@dataclass(frozen=True)
class Forest:
    """scikit-learn's random forest of ``trees`` decision trees, grown from ``seed``."""

    trees: int
    seed: int

    def logits(self, known: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """float32 [K, C]: log-probabilities of the classes for ``queries`` [K, M, C], after fitting the forest to
        ``known`` [N, M, C] with ``labels`` int64 [N], N > 0.

        A tree often gives a class the probability 0. One more tree with uniform probabilities keeps the loss finite and
        the order of the classes.
        """
        from sklearn.ensemble import RandomForestClassifier

        classes = queries.shape[2]
        probabilities = torch.zeros(len(queries), classes, dtype=torch.float64)
        if len(queries):
            forest = RandomForestClassifier(n_estimators=self.trees, random_state=self.seed)
            forest.fit(known.flatten(1).cpu().numpy(), labels.cpu().numpy())
            predicted = torch.from_numpy(forest.predict_proba(queries.flatten(1).cpu().numpy()))
            probabilities[:, torch.from_numpy(forest.classes_)] = predicted
        smoothed = (self.trees * probabilities + 1 / classes) / (self.trees + 1)
        return smoothed.log().float().to(queries.device)

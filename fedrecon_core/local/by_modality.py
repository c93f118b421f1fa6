"""A task model read modality by modality, and decision fusion: a random forest over what each modality says alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.tokens import Fill, Tokens, tokenise
from fedrecon_core.types import Batch


@dataclass(frozen=True)
class ModalityViews:
    """The tokens of one batch, to be classified as if the samples had some of their modalities only. The extractors
    run once, the head once for each selection."""

    model: TaskModel
    tokens: Tokens

    @classmethod
    def of(cls, model: TaskModel, batch: Batch, fills: Sequence[Fill] = ()) -> ModalityViews:
        """Of ``batch`` with its fills: a fill is a token of the modality that it fills."""
        return cls(model, tokenise(model.extractors, model.names, batch, fills))

    def logits(self, modalities: Collection[str]) -> Tensor:
        """[B, C] from the tokens of ``modalities`` alone; with none of them, what the head says of nothing."""
        logits: Tensor = self.model.head(self._only(modalities))
        return logits

    def seen(self, modality: str) -> Tensor:
        """bool [B]: the samples with a token of ``modality``."""
        return self._only([modality]).mask.any(dim=1)

    def _only(self, modalities: Collection[str]) -> Tokens:
        return self.tokens.of([self.model.names.index(name) for name in modalities])


def class_probabilities(model: TaskModel, batch: Batch, fills: Sequence[Fill]) -> Tensor:
    """float32 [B, M, C]: what each modality's tokens alone say of the classes; without a token, the uniform
    distribution."""
    views, found = ModalityViews.of(model, batch, fills), []
    for name in model.names:
        told = views.logits([name]).softmax(dim=1)
        found.append(torch.where(views.seen(name)[:, None], told, torch.full_like(told, 1 / told.shape[1])))
    return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Forest:
    """``trees`` decision trees (scikit-learn's random forest), grown from ``seed``."""

    trees: int
    seed: int

    def logits(self, known: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """float32 [K, C]: log-probabilities of the classes of ``asked`` [K, M, C], after growing on ``known`` [N, M, C]
        and ``labels`` int64 [N], N > 0.

        A tree often gives a class no chance at all. One more tree that does not know anything keeps the loss finite
        and the order of the classes.
        """
        from sklearn.ensemble import RandomForestClassifier

        classes, probabilities = asked.shape[2], torch.zeros(len(asked), asked.shape[2], dtype=torch.float64)
        if len(asked):
            grown = RandomForestClassifier(n_estimators=self.trees, random_state=self.seed)
            grown.fit(known.flatten(1).cpu().numpy(), labels.cpu().numpy())
            told = torch.from_numpy(grown.predict_proba(asked.flatten(1).cpu().numpy()))
            probabilities[:, torch.from_numpy(grown.classes_)] = told
        smoothed = (self.trees * probabilities + 1 / classes) / (self.trees + 1)
        return smoothed.log().float().to(asked.device)

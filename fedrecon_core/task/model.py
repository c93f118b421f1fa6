"""The task model over its parameter groups: ``task.extractor.<m>`` and ``task.head``, which contains the fusion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fedrecon_core.config import Params, Task
from fedrecon_core.registry import FUSIONS
from fedrecon_core.state import HEAD_GROUP, extractor_group
from fedrecon_core.task.tokens import Fill, Tokens, tokenise
from fedrecon_core.types import Batch, DatasetSpec


@dataclass(frozen=True)
class FusionShape:
    """Sizes that a fusion is built for. ``learned_weight``: initial log-weight of synthetic tokens if the fusion learns
    it, per modality and head; None if tokens have fixed weights."""

    width: int
    modalities: int
    learned_weight: float | None = None


class Fusion(nn.Module, ABC):
    """Base of a registered fusion: from tokens to one vector per sample."""

    Params: ClassVar[type[Params]] = Params
    outputs: int

    def __init__(self, params: Any, shape: FusionShape) -> None:
        """``params`` are the fusion's own keys of the config."""
        super().__init__()

    @abstractmethod
    def forward(self, tokens: Tokens) -> Tensor:
        """[B, outputs]; zeros for a sample without any token."""


class Head(nn.Module):
    """Fusion, then Linear, ReLU, Dropout, Linear to class logits."""

    def __init__(self, options: Task, spec: DatasetSpec, learned_weight: float | None = None) -> None:
        super().__init__()
        fusion: type[Fusion] = FUSIONS.get(options.fusion.name)
        self.fusion = fusion(options.fusion, FusionShape(options.width, len(spec.modalities), learned_weight))
        self.classifier = nn.Sequential(
            nn.Linear(self.fusion.outputs, options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden, len(spec.classes)),
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """[B, classes]."""
        logits: Tensor = self.classifier(self.fusion(tokens))
        return logits


class TaskModel:
    """From a batch and its fills to class logits, with the groups that this site has."""

    def __init__(self, groups: Mapping[str, nn.Module], spec: DatasetSpec) -> None:
        """``groups`` has ``task.head`` and any of the extractors."""
        self.names = spec.names
        self.head = groups[HEAD_GROUP]
        self.extractors = {
            name: groups[extractor_group(name)] for name in spec.names if extractor_group(name) in groups
        }

    def logits(self, batch: Batch, fills: Iterable[Fill] = ()) -> Tensor:
        """[B, classes]: unnormalized log-probabilities."""
        logits: Tensor = self.head(tokenise(self.extractors, self.names, batch, fills))
        return logits

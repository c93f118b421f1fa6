"""The task model over its parameter groups: ``task.extractor.<m>`` and ``task.head``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from fedrecon_core.config import Task
from fedrecon_core.registry import FUSIONS
from fedrecon_core.state import HEAD_GROUP, extractor_group
from fedrecon_core.task.fusion import Fusion, FusionShape
from fedrecon_core.task.tokens import Fill, Tokens, tokenise
from fedrecon_core.types import Batch, DatasetSpec


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
    """Reads a batch and its fills into class logits, with the groups that this site holds."""

    def __init__(self, groups: Mapping[str, nn.Module], spec: DatasetSpec) -> None:
        """``groups`` holds ``task.head`` and any of the extractors."""
        self.names = spec.names
        self.head = groups[HEAD_GROUP]
        self.extractors = {
            name: groups[extractor_group(name)] for name in spec.names if extractor_group(name) in groups
        }

    def logits(self, batch: Batch, fills: Iterable[Fill] = ()) -> Tensor:
        """[B, classes]: unnormalised log-probabilities."""
        logits: Tensor = self.head(tokenise(self.extractors, self.names, batch, fills))
        return logits

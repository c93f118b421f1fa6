"""The local half of a strategy: a few points of the task stage where a method may add its own word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from fedrecon_core.state import Groups, State
from fedrecon_core.task.model import TaskModel
from fedrecon_core.types import Batch


class LocalHook:
    """Does nothing; a strategy overrides what it needs. It acts on the stages of ``phases``."""

    phases: tuple[str, ...] = ("task",)

    def begin(self, groups: Groups, state: Mapping[str, State]) -> None:
        """Before the first stage: the groups as received, and this site's state of the last round (may be empty)."""

    def loss(self, model: TaskModel, batch: Batch) -> Tensor | float:
        """An extra term of the loss."""
        return 0.0

    def gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """After backward, before clipping: change the gradients of (``group/tensor``, parameter) in place."""

    def logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Change the logits [B, C] before the cross-entropy."""
        return logits

    def end(self, steps: int, lr: float) -> tuple[dict[str, State], dict[str, State]]:
        """After the last stage of ``phases``: extra groups to upload, and the state to keep at the site."""
        return {}, {}

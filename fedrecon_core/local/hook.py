"""The local half of a strategy: the points of a local round where a method may add its own word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from fedrecon_core.local.evaluate import EvaluationContext, Predictions
from fedrecon_core.recovery.stage import LocalContext
from fedrecon_core.state import State
from fedrecon_core.task.model import TaskModel
from fedrecon_core.types import Batch


@dataclass(frozen=True)
class HookState:
    """``kept``: what this site's ``end`` kept in the last round whose reply the server accepted; ``received``: the
    groups that the strategy's server half sent beside those of the plan, by their names (``strategy_group``). Both may
    be empty."""

    kept: Mapping[str, State] = field(default_factory=dict)
    received: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class StageStats:
    """How a group was trained in this round: gradient steps, and the learning rate and momentum of their stage."""

    steps: int
    lr: float
    momentum: float = 0.0


class LocalHook:
    """Does nothing; a strategy overrides what it needs. ``gradients`` is called in every stage, ``loss`` and ``logits``
    in the task stage, ``predictions`` when a site evaluates, by an object that was in no local round."""

    def begin(self, context: LocalContext, memory: HookState) -> None:
        """Before the first stage: the groups hold what was received, nothing is trained yet."""

    def loss(self, model: TaskModel, batch: Batch) -> Tensor | float:
        """An extra term of the loss."""
        return 0.0

    def gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """After backward, before clipping: change the gradients of (``group/tensor``, parameter) in place."""

    def logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Change the logits [B, C] before the loss."""
        return logits

    def chosen(self, groups: Sequence[str]) -> Sequence[str]:
        """After the last stage: which of the trained ``groups`` go back to the server."""
        return groups

    def end(self, stage_stats: Mapping[str, StageStats]) -> tuple[dict[str, State], dict[str, State]]:
        """Last of all, with the stats of every group that goes back: groups of the strategy's own to upload beside them
        (named by ``strategy_group``), and what to keep at the site for the next round. What is kept of a group goes by
        the group's name, so that it stays as it was where the server leaves that group out of its average."""
        return {}, {}

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """What is scored where the sites evaluate: of every sample of ``scoring.data``, in order."""
        return scoring.predictions()

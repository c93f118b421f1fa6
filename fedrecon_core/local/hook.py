"""The local half of a strategy: a hook that is called at fixed points of a local round."""

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
    """State that a hook starts a round with. Both parts may be empty.

    ``kept``: the state that this site's ``end`` returned in the last round whose reply the server accepted;
    ``received``: the groups that the strategy's server half sent in addition to those of the plan, by their names
    (``strategy_group``).
    """

    kept: Mapping[str, State] = field(default_factory=dict)
    received: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class StageStats:
    """How a group was trained in this round: gradient steps, and the learning rate and momentum of its stage."""

    steps: int
    lr: float
    momentum: float = 0.0


class LocalHook:
    """Base of a strategy's local half; its methods do nothing, and a strategy overrides those that it needs.

    In a local round ``gradients`` is called in every stage, ``loss`` and ``logits`` in the task stage. ``predictions``
    is called when a site evaluates, on a hook that has not been used in a local round.
    """

    def begin(self, context: LocalContext, memory: HookState) -> None:
        """Called before the first stage: the groups are as received, nothing is trained yet."""

    def loss(self, model: TaskModel, batch: Batch) -> Tensor | float:
        """Return an extra term of the loss."""
        return 0.0

    def gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Called after backward, before clipping: change the gradients of (``group/tensor``, parameter) in place."""

    def logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the logits [B, C] that the loss is computed from."""
        return logits

    def select_uploads(self, groups: Sequence[str]) -> Sequence[str]:
        """Called after the last stage: return those of the trained ``groups`` that are sent to the server."""
        return groups

    def end(self, stage_stats: Mapping[str, StageStats]) -> tuple[dict[str, State], dict[str, State]]:
        """Called at the end, with the stats of every group that is uploaded.

        Returns the strategy's own groups to upload (named by ``strategy_group``), and the state to keep at the site for
        the next round. State that belongs to a group must be kept under the group's name: then it stays as it was if
        the server leaves the group out of its average.
        """
        return {}, {}

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """Return the predictions that a site scores: of every sample of ``scoring.data``, in order."""
        return scoring.predictions()

"""``mmfedmc``: sites send the models of a few modalities, and the server averages over a few sites (Yuan et al. 2024,
"Joint modality and client selection"). Implemented from the paper; the scaling of impacts and sizes, and the recency 1
of a modality that was never sent, follow the authors' program.

A modality's model is the group ``task.extractor.<m>``. After its local round a site ranks its modalities by

    priority = shapley * |impact| + size * (1 - bytes of the model) + recency * (rounds since it was sent) / (rounds)

with impact and bytes scaled to 0..1 over the site's modalities (all 0 if they are equal), and sends the first ``gamma``
of them. The extractor of a modality that the site lacks, trained on fills, is not sent. The head is always sent: in the
paper its counterpart, the fusion, stays at the site, but FedRecon's comparison uploads the whole task model for
evaluation, which is the default here (``fusion``). The recovery's groups (generators, mappings) are always sent, too:
they are not part of this method, and a mapping needs the generator with which it was trained.

The server averages ``groups`` over the share ``delta`` of the round's sites, those with the lowest loss first. Only
leaving out modalities reduces the traffic, since loss and groups arrive in one message. The paper ranks sites by the
loss of each modality's model; sites here train one model of all modalities and report its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from flwr.app import Message
from pydantic import Field, model_validator
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.config import GroupSelection, require_defaults
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import ConfigError
from fedrecon_core.local.by_modality import (
    MOST_PLAYERS,
    Forest,
    ModalityViews,
    class_probabilities,
    shapley_values,
)
from fedrecon_core.local.evaluate import EvaluationContext, Predictions
from fedrecon_core.local.hook import HookState, LocalHook, StageStats
from fedrecon_core.recovery.stage import LocalContext
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State, extractor_group, group_bytes
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.target import Target, target_of
from fedrecon_core.types import Batch, DatasetSpec, StrictModel
from strategies.fedavg import FedAvg, FedAvgParams
from strategies.federation import Federation, share_of
from strategies.messages import TrainInstruction, TrainReply

UPLOADS, ROUND = "uploads", "round"
"""Keys in a site's stored state: the round in which it last sent each modality."""


class Priority(StrictModel):
    """The weights of the terms of a modality's priority."""

    shapley: float = Field(default=1 / 3, ge=0)
    size: float = Field(default=1 / 3, ge=0)
    recency: float = Field(default=1 / 3, ge=0)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not (self.shapley or self.size or self.recency):
            raise ValueError("expected a weight above 0, found none: all modalities would have the same priority")
        return self


class MmFedMCParams(GroupSelection, FedAvgParams):
    """Each site sends ``gamma`` modalities, ranked by ``priority``; their Shapley values are computed on ``samples``
    training samples. ``groups`` (name prefixes) are averaged over the share ``delta`` of the round's sites, rounded
    down like ``sites.fraction`` and at least one: those with the lowest loss, or the highest with ``rank: highest``.

    ``fusion: local`` predicts at each site with a forest of ``trees`` trees over the predictions of the single
    modalities, fitted to the site's own training samples whenever a model is scored there (``evaluate.where: sites``).
    """

    name: str = "mmfedmc"
    gamma: int = Field(default=1, ge=1)
    delta: float = Field(default=0.2, gt=0, le=1)
    rank: Literal["lowest", "highest"] = "lowest"
    samples: int = Field(default=50, ge=1)
    priority: Priority = Priority()
    fusion: Literal["task", "local"] = "task"
    trees: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.fusion == "task":
            require_defaults(self, ("trees",), "with fusion: task (only fusion: local uses it)")
        if self.robust is not None:
            reason = "it selects sites by the loss that they report, and few of them are left to average"
            raise InvalidValueError("robust", f"expected none with mmfedmc ({reason}), found {self.robust.rule}")
        return self

    def check_run(self, run: Any) -> None:
        """Raise ``InvalidValueError`` if sites fuse predictions that the server is to score."""
        if self.fusion == "local" and run.evaluate.where != "sites":
            reason = "each site has its own forest; set evaluate.where: sites"
            raise InvalidValueError("strategy.fusion", f"expected task if the server evaluates ({reason}), found local")

    def check_data(self, spec: DatasetSpec) -> None:
        """Raise ``ConfigError`` for data with too many modalities, or for a forest and several labels per sample."""
        if len(spec.names) > MOST_PLAYERS:
            expected = f"expected at most {MOST_PLAYERS} modalities, since it evaluates all their subsets"
            raise ConfigError(f"strategy.name: mmfedmc: {expected}, found {len(spec.names)}; use another strategy")
        if self.fusion == "local" and spec.target == "multilabel":
            expected = "expected task for data with several labels per sample (a forest predicts one class)"
            raise ConfigError(f"strategy.fusion: {expected}, found local")


# --- pure functions -------------------------------------------------------------------------------------------------


def priorities(
    impact: Mapping[str, float], sizes: Mapping[str, float], recency: Mapping[str, float], weights: Priority
) -> dict[str, float]:
    """Modality -> its priority. ``recency`` is within 0..1; impacts and sizes are scaled to that range."""
    effect, size = _scaled(impact), _scaled(sizes)
    return {
        name: weights.shapley * effect[name] + weights.size * (1 - size[name]) + weights.recency * recency[name]
        for name in impact
    }


def _scaled(values: Mapping[str, float]) -> dict[str, float]:
    """The values scaled to 0..1; all 0 if they are equal, or not all finite."""
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    usable = all(map(math.isfinite, values.values())) and high > low
    return {name: (value - low) / (high - low) if usable else 0.0 for name, value in values.items()}


def first_places(losses: Sequence[float], wanted: int, rank: Literal["lowest", "highest"]) -> set[int]:
    """The indices of the ``wanted`` best losses. Equal losses rank by index; losses that are not finite rank last."""
    sign = {"lowest": 1, "highest": -1}[rank]
    keys = [sign * loss if math.isfinite(loss) else math.inf for loss in losses]
    return set(sorted(range(len(keys)), key=lambda place: (keys[place], place))[:wanted])


# --- fusion ----------------------------------------------------------------------------------------------------------


class TaskFusion:
    """The predictions of the task model, without an additional loss."""

    def loss(self, model: TaskModel, batch: Batch, target: Target) -> Tensor | float:
        """The term added to the loss of the task model on ``batch``, whose labels are those of ``target``."""
        return 0.0

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """The predictions to score if the sites evaluate."""
        return scoring.predictions()


@dataclass(frozen=True)
class LocalFusion(TaskFusion):
    """A forest of ``trees`` trees over the predictions of single modalities. A modality's model is its extractor with
    the head, which reads the tokens of that modality only.

    The paper trains only these models. Here their mean loss is added to that of the task model, so that the head still
    learns to read several modalities: Shapley values are computed from it, and a saved model predicts with it.

    The forest is fitted to the site's training samples whenever a model is scored, as the paper's sites do after a
    round. Therefore it is not stored, the model of the best round is tested with its own forest, and even sites that
    were never sampled have a forest. A saved model has no forest. A site without training samples predicts with the
    task model.
    """

    trees: int

    def loss(self, model: TaskModel, batch: Batch, target: Target) -> Tensor | float:
        """The mean of the losses of the present modalities, each alone, on real rows."""
        views, losses = ModalityViews.of(model, batch), []
        for name in model.extractors:
            seen = batch.inputs[name].index
            if len(seen):
                losses.append(target.loss(views.logits([name])[seen], batch.labels[seen]))
        return torch.stack(losses).mean() if losses else 0.0

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """The forest's predictions."""
        training = scoring.training()
        if not len(training):
            return super().predictions(scoring)
        forest = Forest(self.trees, seeding.derive(scoring.recovery.config.seed, "forest") % 2**32)
        known = scoring.apply(class_probabilities, training, f"training/{scoring.name}")
        asked = scoring.apply(class_probabilities, scoring.data, scoring.name)
        return Predictions(forest.logits(known, training.labels, asked))


# --- at the site ----------------------------------------------------------------------------------------------------


class ModalitySelection(LocalHook):
    """Selects the groups to upload. A modality counts as sent if the server accepted the reply, even if it did not
    average over this site, but not if the reply was lost or rejected. ``fusion`` adds its loss and computes the
    predictions."""

    _context: LocalContext

    def __init__(self, params: MmFedMCParams, fusion: TaskFusion) -> None:
        """``params`` are the strategy's keys."""
        self.params, self.fusion = params, fusion
        self._sent: dict[str, int] = {}

    def begin(self, context: LocalContext, memory: HookState) -> None:
        """Restore the rounds of the last uploads."""
        self._context = context
        self._sent = {name.removeprefix(f"{UPLOADS}."): int(state[ROUND]) for name, state in memory.kept.items()}

    def loss(self, model: TaskModel, batch: Batch) -> torch.Tensor | float:
        """The fusion's additional loss."""
        return self.fusion.loss(model, batch, target_of(self._context.data.spec))

    def select_uploads(self, groups: Sequence[str]) -> Sequence[str]:
        """All groups except for the extractors of modalities that are not among the first ``gamma``."""
        context = self._context
        first = [name for name in context.data.modalities if extractor_group(name) in groups]
        if len(first) > self.params.gamma:
            values, now = self._impact(), context.global_info.round
            sizes = {name: float(group_bytes(context.groups[extractor_group(name)].state_dict())) for name in first}
            # Rounds count from 1: with t = now - 1 this is (t - last) / (t + 1), and 1 if it was never sent.
            recency = {name: (now - self._sent.get(name, 0)) / now for name in first}
            ranks = priorities({name: values.get(name, 0.0) for name in first}, sizes, recency, self.params.priority)
            first = sorted(first, key=lambda name: (-ranks[name], name))[: self.params.gamma]
        self._sent.update(dict.fromkeys(first, context.global_info.round))
        stay = {extractor_group(name) for name in context.data.spec.names} - set(map(extractor_group, first))
        return [group for group in groups if group not in stay]

    def end(self, stage_stats: Mapping[str, StageStats]) -> tuple[dict[str, State], dict[str, State]]:
        """Store the rounds of the last uploads."""
        return {}, {f"{UPLOADS}.{name}": {ROUND: torch.tensor(sent)} for name, sent in sorted(self._sent.items())}

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """The fusion's predictions."""
        return self.fusion.predictions(scoring)

    def _impact(self) -> dict[str, float]:
        """Modality -> mean |Shapley value| over ``samples`` training samples, for the modalities with a token in them.

        The value of a set of modalities is exp(-loss) of a sample whose other tokens are masked: the probability of its
        class or, with several labels, the geometric mean of the probabilities of its labels.
        """
        context = self._context
        stream = context.stream(f"shapley/{context.global_info.round}")
        drawn = torch.randperm(len(context.data), generator=stream)[: self.params.samples].sort().values
        batch, target = context.data.batch(drawn.to(context.data.device)), target_of(context.data.spec)
        model = TaskModel(context.groups, context.data.spec)
        with seeding.scope(stream.initial_seed()), torch.no_grad():
            views = ModalityViews.of(model, batch, context.recover(batch, context))
            players = [name for name in model.extractors if bool(views.has_token(name).any())]

            def value(modalities: Collection[str]) -> torch.Tensor:
                return torch.exp(-target.losses(views.logits(modalities).double(), batch.labels))

            return {name: float(worth.abs().mean()) for name, worth in shapley_values(players, value).items()}


FUSIONS: dict[str, Callable[[MmFedMCParams], TaskFusion]] = {
    "task": lambda params: TaskFusion(),
    "local": lambda params: LocalFusion(params.trees),
}
"""Value of ``fusion`` -> factory."""


# --- at the server --------------------------------------------------------------------------------------------------


@STRATEGIES.register("mmfedmc")
class MmFedMC(FedAvg):
    """Averages over the sites that are ranked first. A group that none of them sent stays unchanged."""

    Params = MmFedMCParams

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._asked = 0

    @staticmethod
    def local_half(params: Any) -> LocalHook:
        """The selection of modalities, with the fusion that ``params`` names."""
        return ModalitySelection(params, FUSIONS[params.fusion](params))

    def train_messages(self, round_: int, groups: Mapping[str, State]) -> list[Message]:
        """As in ``fedavg``. The share ``delta`` refers to all sites that are sent a message, replying or not."""
        made = super().train_messages(round_, groups)
        self._asked = len(made)
        return made

    def holders(self, group: str, replies: Sequence[TrainReply]) -> list[TrainReply]:
        """For ``groups``, the replies of the sites ranked first, in their order; for others, all that have the
        group."""
        if not group.startswith(self.params.groups):
            return super().holders(group, replies)
        wanted = share_of(self.params.delta, self._asked)
        losses = [reply.metrics.get("task.loss", math.nan) for reply in replies]
        first = first_places(losses, wanted, self.params.rank)
        return [reply for place, reply in enumerate(replies) if place in first and group in reply.groups]

    def instruction(self, name: str, round_: int, split: str) -> TrainInstruction:
        """As in ``fedavg``. With ``fusion: local``, a simulated site also gets its training samples."""
        instruction = super().instruction(name, round_, split)
        if self.params.fusion == "local" and split != "train":
            return replace(instruction, training=self.federation.shares.get(name))
        return instruction

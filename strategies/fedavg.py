"""``fedavg``: each group is averaged over the sites that trained it (McMahan et al. 2017; Algorithm 1 of FedRecon)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import model_validator

from fedrecon_core.config import Params, RunConfig, StrategyParams
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import ConfigError
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import PHASES
from fedrecon_core.registry import RECOVERIES, STRATEGIES
from fedrecon_core.state import State, group_bytes
from strategies import messages
from strategies.averages import Robust, weighted_mean
from strategies.federation import Federation
from strategies.messages import TrainReply

log = logging.getLogger(__name__)


class FedAvgParams(StrategyParams):
    """``weighting``: ``uniform`` over the sites that trained the group (Algorithm 1), or by the ``samples`` that passed
    through the group at each site (the FedMultimodal benchmark). ``robust``: an average that a few faulty sites cannot
    change much, instead of the mean."""

    name: str = "fedavg"
    weighting: Literal["uniform", "samples"] = "uniform"
    robust: Robust | None = None

    @model_validator(mode="after")
    def _check_weighting(self) -> Self:
        if self.robust is not None and self.weighting != "uniform":
            reason = "in a robust average every site counts the same"
            raise InvalidValueError("weighting", f"expected uniform with robust ({reason}), found {self.weighting}")
        return self


@STRATEGIES.register("fedavg")
class FedAvg(Strategy):
    """A strategy that sends each site the groups of its transfer plan and averages group by group.

    Subclasses override ``server_step`` (from the average to the new global state) or name a local half. The round loop
    calls ``train_messages``, ``aggregate`` and ``evaluate_messages``; the methods of Flower's own interface, at the
    end, adapt to them.
    """

    Params: ClassVar[type[Params]] = FedAvgParams

    def __init__(self, federation: Federation) -> None:
        """``federation.config.strategy`` holds this class's ``Params``."""
        self.federation = federation
        self.params: Any = federation.config.strategy
        self.notes: list[str] = []
        """Remarks for the user on the last aggregation."""
        self.left_out: set[str] = set()
        """Groups that too few sites sent for a robust average, so that the last aggregation did not change them."""
        self._current: dict[str, State] = {}
        self._bundles: dict[str, ArrayRecord] = {}
        """The groups as sent in this round, packed once for all sites."""

    @staticmethod
    def local_half(params: Any) -> LocalHook:
        """The part of this strategy that runs at the sites."""
        return LocalHook()

    def state(self) -> dict[str, State]:
        """The server's state that a resume needs, apart from the global groups."""
        return {}

    def load_state(self, state: Mapping[str, State]) -> None:
        """Restore ``state``."""

    def strategy_groups(self, groups: Iterable[str]) -> dict[str, State]:
        """Additional groups (named by ``strategy_group``) that the strategy sends with ``groups`` in a train message. A
        site may send back a group of the same name and shapes."""
        return {}

    def full_bytes(self, groups: Mapping[str, State]) -> int:
        """Tensor bytes that a train message would have without transfer plans: all ``groups`` and the additional
        groups. Call it between rounds."""
        self._current = dict(groups)
        return sum(map(group_bytes, {**self._current, **self.strategy_groups(groups)}.values()))

    def check(self, groups: Iterable[str]) -> None:
        """Raise ``ConfigError`` if too few sites of a round may upload one of ``groups`` for its robust average."""
        sampled = len(self.federation.sample(1, "train", self.federation.config.sites.fraction))
        for group in sorted(groups):
            robust = self._robust(group)
            holders = min(sampled, sum(group in plan.upload for plan in self.federation.plans.values()))
            if robust is not None and holders < robust.least:
                raise ConfigError(
                    f"strategy.robust: {robust.rule} needs {robust.least} sites per group, but only {holders} can send "
                    f"{group} in a round; set strategy.robust.groups to prefixes of groups that enough sites have"
                )

    def summary(self) -> None:
        """Log the strategy and its number of sites."""
        log.info("%s: %d sites, weighting %s", self.params.name, len(self.federation.sites), self.params.weighting)

    # --- messages ---------------------------------------------------------------------------------------------

    def train_messages(self, round_: int, groups: Mapping[str, State]) -> list[Message]:
        """One message per sampled site, with the groups of its plan and their extra groups."""
        self._current, self._bundles = dict(groups), {}
        made = []
        for name in self.federation.sample(round_, "train", self.federation.config.sites.fraction):
            message = self._message(name, round_, "train", messages.LOCAL_TYPE)
            for group, state in self.strategy_groups(self.federation.plan(name).download).items():
                message.content[group] = self._bundled(group, state)
            made.append(message)
        return made

    def evaluate_messages(self, round_: int, groups: Mapping[str, State], split: str) -> list[Message]:
        """One message per site drawn for evaluation on ``split``, with the groups that it needs."""
        self._current, self._bundles = dict(groups), {}
        made = []
        for name in self.federation.sample(round_, split, self.federation.config.evaluate.fraction):
            message = self._message(name, round_, split, messages.SITE_TYPE)
            messages.write_split(message.content, split)
            made.append(message)
        return made

    def instruction(self, name: str, round_: int, split: str) -> messages.TrainInstruction:
        """The instruction for the site ``name`` over its samples of ``split``."""
        return self.federation.instruction(name, round_, split)

    def _message(self, name: str, round_: int, split: str, message_type: str) -> Message:
        federation, plan = self.federation, self.federation.plan(name, split)
        recovery: type[Recovery] = RECOVERIES.get(federation.config.recovery.name)
        used = [m.name for m in federation.spec.modalities if recovery.reads_statistics or m.scale == "standard"]
        content = messages.write_instruction(self.instruction(name, round_, split))
        messages.write_global_info(content, federation.global_info(round_), plan.download, used)
        for group in plan.download:
            content[group] = self._bundled(group, self._current[group])
        return Message(content, dst_node_id=federation.nodes[name], message_type=message_type)

    def _bundled(self, group: str, state: State) -> ArrayRecord:
        if group not in self._bundles:
            self._bundles[group] = messages.bundle(state)
        return self._bundles[group]

    # --- aggregation ------------------------------------------------------------------------------------------

    def aggregate(self, round_: int, replies: Sequence[TrainReply]) -> tuple[dict[str, State], dict[str, float]]:
        """The new global groups, and phase -> item-weighted mean loss. ``replies`` are valid and in site order. A group
        stays unchanged if no site returned it, or fewer sites than its robust average needs."""
        updated, self.left_out, self.notes = dict(self._current), set(), []
        for group, old in self._current.items():
            holders = self.holders(group, replies)
            robust = self._robust(group)
            if robust is not None and 0 < len(holders) < robust.least:
                self.left_out.add(group)
                self.notes.append(
                    f"{group} stays unchanged: {robust.rule} needs {robust.least} sites, only {len(holders)} sent it"
                )
            elif holders:
                updated[group] = self.server_step(group, old, self.average(group, holders))
                total = sum(reply.counts[group] for reply in holders)
                self.federation.trained[group] = self.federation.trained.get(group, 0) + total
        for group in sorted({group for reply in replies for group in reply.quality}):
            reports = [reply for reply in self.holders(group, replies) if group in reply.quality]
            if reports:  # the mean over the sites whose mappings are averaged, weighted by their pairs
                weighted = sum(reply.quality[group] * reply.counts[group] for reply in reports)
                self.federation.quality[group] = weighted / sum(reply.counts[group] for reply in reports)
        return updated, mean_losses(replies)

    def holders(self, group: str, replies: Sequence[TrainReply]) -> list[TrainReply]:
        """The replies over which ``group`` is averaged: here all that have it, in their order."""
        return [reply for reply in replies if group in reply.groups]

    def average(self, group: str, holders: Sequence[TrainReply]) -> State:
        """The average of ``group`` over ``holders``: the mean, or the robust average that the config names."""
        states, robust = [reply.groups[group] for reply in holders], self._robust(group)
        if robust is not None:
            return robust.average(states)
        weights = [1.0 if self.params.weighting == "uniform" else float(reply.counts[group]) for reply in holders]
        return weighted_mean(states, weights)

    def server_step(self, group: str, old: State, average: State) -> State:
        """The new global state of ``group``: here the average itself."""
        return average

    def _robust(self, group: str) -> Robust | None:
        """The robust average of ``group``; None if it is averaged by the mean."""
        robust: Robust | None = self.params.robust
        return robust if robust is not None and group.startswith(robust.groups) else None

    # --- Flower's interface -----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """``train_messages`` with the groups as one flat record. Returns a list: generators fail in deployment."""
        return self.train_messages(server_round, messages.unflatten(arrays))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """``aggregate`` of messages; (None, None) without any."""
        received = [messages.read_train_reply(reply.content) for reply in replies]
        if not received:
            return None, None
        groups, losses = self.aggregate(server_round, received)
        return messages.flatten(groups), MetricRecord(dict(losses))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """``evaluate_messages`` for the split ``config["split"]``."""
        return self.evaluate_messages(server_round, messages.unflatten(arrays), str(config["split"]))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Counts and loss sums added up over all sites, in the format of a single site's; None if there are none."""
        total: dict[str, Score] = {}
        for reply in replies:
            scores = messages.read_scores(messages.scores_of(reply.content), self.federation.spec)
            for split, score in scores.items():
                total[split] = total[split] + score if split in total else score
        return messages.scores_of(messages.write_scores(total)) if total else None


def strategy_class(config: RunConfig) -> type[FedAvg]:
    """The strategy that ``config`` names; ``ConfigError`` if there is no such strategy."""
    found: type[FedAvg] = STRATEGIES.get(config.strategy.name)
    return found


def mean_losses(replies: Sequence[TrainReply]) -> dict[str, float]:
    """Phase -> mean loss, weighted by the number of items at each site."""
    losses: dict[str, float] = {}
    for phase in PHASES:
        ran = [reply.metrics for reply in replies if f"{phase}.loss" in reply.metrics]
        if ran:
            weighted = sum(metrics[f"{phase}.loss"] * metrics[f"{phase}.items"] for metrics in ran)
            losses[phase] = weighted / sum(metrics[f"{phase}.items"] for metrics in ran)
    return losses

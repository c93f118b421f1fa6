"""``fedavg``: each group is averaged over the sites that trained it (McMahan et al. 2017; Algorithm 1 of FedRecon)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import model_validator

from fedrecon_core.config import Params, StrategyParams
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import ConfigError
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.recovery.stage import PHASES
from fedrecon_core.registry import RECOVERIES, STRATEGIES
from fedrecon_core.state import State
from fedrecon_core.types import DatasetSpec
from strategies import messages
from strategies.aggregation import weighted_mean
from strategies.federation import Federation
from strategies.robust import Robust

log = logging.getLogger(__name__)


class FedAvgParams(StrategyParams):
    """``weighting``: ``uniform`` over the sites that trained the group (Algorithm 1), or by the ``samples`` that passed
    through the group at each site (the FedMultimodal benchmark). ``robust``: an average that a few wrong sites cannot
    move far, in place of the mean."""

    name: str = "fedavg"
    weighting: Literal["uniform", "samples"] = "uniform"
    robust: Robust | None = None

    @model_validator(mode="after")
    def _unweighted(self) -> Self:
        if self.robust is not None and self.weighting != "uniform":
            told = "in a robust average every site counts the same"
            raise InvalidValueError("weighting", f"expected uniform with robust ({told}), found {self.weighting}")
        return self


@STRATEGIES.register("fedavg")
class FedAvg(Strategy):
    """A Flower strategy that sends each site the groups of its transfer plan and averages group by group.

    Subclasses change ``server_step`` (what the server makes of the average) or name a local half.
    """

    Params: ClassVar[type[Params]] = FedAvgParams

    def __init__(self, federation: Federation) -> None:
        """``federation.config.strategy`` holds this class's ``Params``."""
        self.federation = federation
        self.params: Any = federation.config.strategy
        recovery: Any = RECOVERIES.get(federation.config.recovery.name)
        self._reads_statistics: bool = recovery.reads_statistics
        self.remarks: list[str] = []
        """What a person should know of the last aggregation; whoever tells it takes it out."""
        self.left_out: set[str] = set()
        """Groups that sites sent and the last aggregation left as they were: too few for a robust average."""
        self._current: dict[str, ArrayRecord] = {}
        self._bundles: dict[str, ArrayRecord] = {}

    @staticmethod
    def local_half(params: Any) -> LocalHook:
        """What this strategy adds to the local round."""
        return LocalHook()

    def state(self) -> dict[str, State]:
        """What the server must keep for a resume, besides the global groups."""
        return {}

    def load_state(self, state: Mapping[str, State]) -> None:
        """Take up ``state`` again."""

    def beside(self, groups: Iterable[str]) -> dict[str, ArrayRecord]:
        """What travels beside ``groups`` in a train message, under names of ``strategy_group``. A site may send back a
        group of the same name and shapes."""
        return {}

    def full_bytes(self, groups: Mapping[str, State]) -> int:
        """Tensor bytes of a train message with every one of ``groups`` and all that travels beside them: what a site
        would be sent without a transfer plan. To be asked between rounds."""
        self._current = {name: messages.pack_group(state) for name, state in groups.items()}
        return sum(map(messages.record_bytes, {**self._current, **self.beside(groups)}.values()))

    # --- training ---------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message per sampled site, with the groups of its plan. A list: a generator fails in deployment."""
        self._current, self._bundles = messages.unflatten(arrays), {}
        names = self.federation.sample(server_round, "train", self._fraction)
        made = [self._message(name, server_round, messages.LOCAL_TYPE) for name in names]
        for name, message in zip(names, made, strict=True):
            for group, record in self.beside(self.federation.plan(name).download).items():
                message.content[group] = messages.bundle(record)
        return made

    def _message(self, name: str, server_round: int, kind: str, split: str = "train") -> Message:
        federation = self.federation
        plan = federation.plan(name, split)
        content = messages.write_instruction(self.instruction(name, server_round, split))
        messages.write_knowledge(content, federation.global_info(server_round), plan.download, self._statistics())
        for group in plan.download:
            if group not in self._bundles:
                self._bundles[group] = messages.bundle(self._current[group])
            content[group] = self._bundles[group]
        return Message(content, dst_node_id=federation.nodes[name], message_type=kind)

    def instruction(self, name: str, server_round: int, split: str) -> messages.TrainInstruction:
        """What the site ``name`` is to do with its samples of ``split``."""
        return self.federation.instruction(name, server_round, split)

    def _statistics(self) -> list[str]:
        """The modalities whose statistics a site needs: to scale its input, or to fill with them."""
        return [m.name for m in self.federation.spec.modalities if self._reads_statistics or m.scale == "standard"]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new global groups and the item-weighted mean losses. ``replies`` are valid and in site order; a group
        that nobody returned, or fewer sites than a robust average needs, stays as it is."""
        received = [messages.read_result(reply.content) for reply in replies]
        if not received:
            return None, None
        updated, self.left_out = dict(self._current), set()
        for group in self._current:
            holders = self.holders(group, received)
            if holders and self._enough(group, len(holders)):
                updated[group] = self._aggregate(group, holders)
                total = sum(reply.counts[group] for reply in holders)
                self.federation.trained[group] = self.federation.trained.get(group, 0) + total
        self._update_quality(received)
        return messages.flatten(updated), MetricRecord(_mean_losses(received))

    def holders(self, group: str, received: Sequence[messages.TrainReply]) -> list[messages.TrainReply]:
        """Those of the replies over which ``group`` is averaged, in the order of ``received``: all that hold it."""
        return [reply for reply in received if group in reply.groups]

    @property
    def _fraction(self) -> float:
        return self.federation.config.sites.fraction

    def _robust(self, group: str) -> Robust | None:
        """The robust average of ``group``, or None where it is the mean."""
        robust: Robust | None = self.params.robust
        return robust if robust is not None and group.startswith(robust.groups) else None

    def _enough(self, group: str, holders: int) -> bool:
        robust = self._robust(group)
        if robust is None or holders >= robust.least:
            return True
        self.remarks.append(f"{group} stays as it is: {robust.rule} needs {robust.least} sites, {holders} sent it")
        self.left_out.add(group)
        return False

    def check(self, groups: Iterable[str]) -> None:
        """``ConfigError`` where too few of the sites of a round may upload one of ``groups`` for its robust average."""
        plans, sampled = self.federation.plans.values(), len(self.federation.sample(1, "train", self._fraction))
        for group in sorted(groups):
            robust, holders = self._robust(group), min(sampled, sum(group in plan.upload for plan in plans))
            if robust is not None and holders < robust.least:
                raise ConfigError(
                    f"strategy.robust: {robust.rule} needs {robust.least} sites that hold a group, and {holders} can "
                    f"send {group} in a round; name prefixes of groups that enough sites hold in strategy.robust.groups"
                )

    def _aggregate(self, group: str, holders: list[messages.TrainReply]) -> ArrayRecord:
        states, robust = [messages.unpack_group(reply.groups[group]) for reply in holders], self._robust(group)
        average = self._mean(group, states, holders) if robust is None else robust.average(states)
        old = messages.unpack_group(self._current[group])
        return messages.pack_group(self.server_step(group, old, average))

    def _mean(self, group: str, states: list[State], holders: list[messages.TrainReply]) -> State:
        weights = [1.0 if self.params.weighting == "uniform" else float(reply.counts[group]) for reply in holders]
        return weighted_mean(states, weights)

    def server_step(self, group: str, old: State, average: State) -> State:
        """The new global state of ``group``: here the average itself."""
        return average

    def _update_quality(self, received: list[messages.TrainReply]) -> None:
        """A mapping's score is the mean of the reports of the sites that it is averaged over, weighted by their
        pairs."""
        for group in sorted({group for reply in received for group in reply.quality}):
            told = [reply for reply in self.holders(group, received) if group in reply.quality]
            reports = [(reply.quality[group], reply.counts[group]) for reply in told]
            if reports:
                self.federation.quality[group] = sum(q * n for q, n in reports) / sum(n for _, n in reports)

    # --- evaluation at the sites ------------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message per site drawn for evaluation of ``config["split"]``."""
        self._current, self._bundles = messages.unflatten(arrays), {}
        split = str(config["split"])
        names = self.federation.sample(server_round, split, self.federation.config.evaluate.fraction)
        made = [self._message(name, server_round, messages.SITE_TYPE, split) for name in names]
        for message in made:
            messages.write_split(message.content, split)
        return made

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Pooled counts and loss sums: the sum over the sites."""
        return pooled((reply.content for reply in replies), self.federation.spec)

    def summary(self) -> None:
        """Log what runs."""
        federation = self.federation
        log.info("%s: %d sites, weighting %s", self.params.name, len(federation.sites), self.params.weighting)


def _mean_losses(received: list[messages.TrainReply]) -> messages.MetricValues:
    """Phase -> loss, weighted by the items that the sites went through."""
    losses: messages.MetricValues = {}
    for phase in PHASES:
        parts = [
            (r.metrics[f"{phase}.loss"], r.metrics[f"{phase}.items"]) for r in received if f"{phase}.loss" in r.metrics
        ]
        if parts:
            losses[phase] = sum(loss * items for loss, items in parts) / sum(items for _, items in parts)
    return losses


def pooled(contents: Iterable[RecordDict], spec: DatasetSpec) -> MetricRecord | None:
    """The sum of the sites' scores on data of ``spec``, in the order given, as a site would send it; None without
    any."""
    total: dict[str, Score] = {}
    for content in contents:
        for split, score in messages.read_scores(messages.scores_of(content), spec).items():
            total[split] = total[split] + score if split in total else score
    return messages.scores_of(messages.write_scores(total)) if total else None

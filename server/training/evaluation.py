"""Scoring the global model: by the server on its own copy of the data, or by the sites on theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedrecon_core.config import Engine
from fedrecon_core.data.allocation import SERVER
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import scaled
from fedrecon_core.errors import RunError
from fedrecon_core.local.evaluate import Predictions, Score, predict
from fedrecon_core.metrics.accuracy import Accuracy
from fedrecon_core.metrics.base import all_metrics
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import State, write_group
from fedrecon_core.task.target import target_of
from server.federation.messaging import Replies, exchange, needed
from server.federation.registration import Central, Started, deadline_of
from server.federation.reply_validation import score_fault
from server.runs.predictions import write_predictions
from strategies import messages
from strategies.wire import WireMeter


class NotScoredError(RunError):
    """Too few sites have scored a model; the model itself is none the worse for it."""


@dataclass(frozen=True)
class Scored:
    """A pooled score. Where sites evaluate, ``replies`` says who gave theirs, and why others did not."""

    score: Score
    replies: Replies | None = None


class Evaluator(ABC):
    """Scores one state of the global groups on a split."""

    @abstractmethod
    def score(
        self, split: str, model: Mapping[str, State], global_info: GlobalInfo, look: Callable[[], None]
    ) -> Scored:
        """The pooled score on ``validation`` or ``test``; ``NotScoredError`` below the quorum. ``look`` brings the
        federation up to date."""


class ServerEvaluator(Evaluator):
    """The central validation and test sets under their masks, as in the benchmark."""

    def __init__(self, started: Started, central: Central, directory: Path) -> None:
        """Build the modules; the central sets are opened when they are first scored."""
        self._started, self._central, self._directory = started, central, directory
        self._device = choose_device(started.federation.config.device)
        self._groups = {name: module.to(self._device) for name, module in started.recovery.build().items()}
        self._threads = threads_of(started.federation.config.engine, self._device)
        self._sets: dict[str, SiteData] = {}

    def score(
        self, split: str, model: Mapping[str, State], global_info: GlobalInfo, look: Callable[[], None]
    ) -> Scored:
        """Score the central set ``split``; what was said of the test samples goes to ``predictions.parquet``."""
        for name, state in model.items():
            write_group(self._groups[name], state)
        data = self._set(split, global_info)
        seen = global_info.after_scaling(data.spec)
        found = predict(self._started.recovery, self._groups, seen, data, split, threads=self._threads)
        if split == "test":
            write_predictions(self._directory / "predictions.parquet", data, found)
        return Scored(_with_scores(found, data))

    def _set(self, split: str, global_info: GlobalInfo) -> SiteData:
        if split not in self._sets:
            central, recovery = self._central, self._started.recovery
            allocation = central.allocation
            share = {"validation": allocation.validation, "test": allocation.test}[split][SERVER]
            opened = open_site(
                central.dataset, share.samples, share.present, device=self._device, sealed=recovery.reads_absent
            )
            self._sets[split] = scaled(opened, global_info.statistics)
        return self._sets[split]


def threads_of(engine: Engine, device: torch.device) -> int:
    """How many batches the server reads at the same time: as many as there are workers on its own machine, which wait
    meanwhile; one where the sites run elsewhere, for then nothing says how much of its machine is the server's."""
    here = engine.simulated and engine.ray_address is None and device.type == "cpu"
    return engine.workers if here else 1


def _with_scores(found: Predictions, data: SiteData) -> Score:
    """Exact in every metric: whoever holds the samples needs no histogram of them."""
    score, something = found.score(data), data.present.any(dim=1)
    exact = target_of(data.spec).with_scores(score.counts, found.logits[something], data.labels[something])
    return replace(score, counts=exact)


class SiteEvaluator(Evaluator):
    """One more message to the sites that hold samples of the split."""

    def __init__(self, started: Started, strategy: Any, grid: Grid, meter: WireMeter) -> None:
        self._started, self._strategy, self._grid, self._meter = started, strategy, grid, meter
        self._federation = started.federation

    def score(
        self, split: str, model: Mapping[str, State], global_info: GlobalInfo, look: Callable[[], None]
    ) -> Scored:
        """Pool the sites' counts; below the quorum, ask again whoever is there then."""
        config = self._federation.config.sites
        for _ in range(config.retries + 1):
            try:
                look()
            except RunError as error:
                raise NotScoredError(str(error)) from None
            sent = self._sent(split, model, global_info)
            replies = self._exchange(sent, split)
            if replies.messages and len(replies.messages) >= needed(config.quorum, len(sent)):
                return self._pooled(split, global_info, replies)
            if not sent:
                raise NotScoredError(f"evaluation on {split}: no connected site holds samples of it")
        raise NotScoredError(
            f"evaluation on {split}: {replies.answered()}, the quorum is {config.quorum:.0%} (sites.quorum). "
            f"{replies.reasons()}"
        )

    def _exchange(self, sent: list[Message], split: str) -> Replies:
        """Send, collect, and turn every reply that cannot be pooled into a failure; sites that failed are asked again
        who they are."""
        federation = self._federation
        replies = exchange(self._grid, sent, deadline_of(federation.config), self._meter)
        for name, reply in sorted(replies.messages.items()):
            samples = federation.samples(name, split)
            fault = score_fault(reply, split, federation.spec, samples)
            if fault is not None:
                replies.reject(name, fault)
        self._started.mark_stale(sorted(replies.failures))
        return replies

    def _pooled(self, split: str, global_info: GlobalInfo, replies: Replies) -> Scored:
        ordered = [replies.messages[name] for name in sorted(replies.messages)]
        record = self._strategy.aggregate_evaluate(global_info.round, ordered)
        score = messages.read_scores(record, self._federation.spec)[split]
        return Scored(score, replies)

    def _sent(self, split: str, model: Mapping[str, State], global_info: GlobalInfo) -> list[Message]:
        arrays = messages.flatten({name: messages.pack_group(state) for name, state in model.items()})
        with self._federation.as_of(global_info):
            made: list[Message] = self._strategy.configure_evaluate(
                global_info.round, arrays, ConfigRecord({"split": split}), self._grid
            )
        return made


def evaluator_for(started: Started, strategy: Any, grid: Grid, directory: Path, meter: WireMeter) -> Evaluator:
    """The evaluator that ``evaluate.where`` asks for."""
    config = started.federation.config
    if config.evaluate.where == "server" and started.central is not None:
        return ServerEvaluator(started, started.central, directory)
    return SiteEvaluator(started, strategy, grid, meter)


def metrics_line(round_: int, split: str, scored: Scored) -> dict[str, Any]:
    """The line of ``metrics.jsonl``. ``<metric>_error`` is the bound of one that may not be exact, ``<metric>_classes``
    says over how many classes one is a mean that some may lack; with 0 the metric itself is not there. Samples with
    nothing present are scored apart, in fields ``empty_*``; where sites evaluate, it says how many were asked and which
    of them gave no score."""
    score = scored.score
    n, empty = score.counts.samples, score.empty.samples
    line = {"round": round_, "split": split, "n": n, "loss": score.loss_sum / max(n, 1), **all_metrics(score.counts)}
    if empty:
        line.update({"empty_n": empty, "empty_accuracy": Accuracy.compute(score.empty)})
    if scored.replies is not None:
        failures = {"failures": dict(scored.replies.failures)} if scored.replies.failures else {}
        line.update({"sites": scored.replies.asked, **failures})
    return line


def selected(line: Mapping[str, Any], select: str) -> float:
    """The number by which ``evaluate.select`` compares the round of ``line``; ``RunError`` where it does not exist."""
    if select not in line:
        raise RunError(
            f"evaluate.select: round {line['round']} has no {select}: expected a class that some of the {line['n']} "
            f"{line['split']} samples have and others lack, found none; select another metric or hold out more samples"
        )
    return float(line[select])

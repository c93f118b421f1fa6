"""The rounds of a run, from the handshake's federation to the tested model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import RunError
from fedrecon_core.inference import save_model
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import State, parameters_sha256, read_group
from server.federation.messaging import Replies, exchange, needed
from server.federation.registration import Started, deadline_of
from server.federation.reply_validation import read_reply
from server.federation.update_norms import judge
from server.runs.directory import RunDirectory
from server.runs.formatting import plural
from server.runs.manifest import data_changes, joined_sites, sites_of
from server.training import checkpoints
from server.training.checkpoints import Best, Training
from server.training.evaluation import Evaluator, NotScoredError, Scored, metrics_line, selected
from server.training.progress import PlainProgress
from server.training.site_lines import site_lines
from strategies import messages
from strategies.messages import TrainReply
from strategies.wire import WireMeter


@dataclass
class Rounds:
    """Everything that a round needs. ``training`` is what changes; it is checkpointed after each round."""

    grid: Grid
    config: RunConfig
    started: Started
    strategy: Any
    evaluator: Evaluator
    directory: RunDirectory
    progress: PlainProgress
    training: Training
    meter: WireMeter
    began: float
    """When the run, or its resume, began (``time.perf_counter``)."""

    def run(self) -> dict[str, Any]:
        """Run what is left of the run, test the best model, and return the result's fields."""
        self._before, self._norms = self.training.wall_seconds, self.training.norms
        self.started.federation.accepted.update(self.training.accepted)
        self._described = dict(self.started.federation.sites)  # in the manifest
        for round_ in range(self.training.round + 1, self.config.rounds + 1):
            self._round(round_)
        return self._finish()

    def _wall_seconds(self) -> float:
        """Seconds since the run began, those before a resume included."""
        return self._before + time.perf_counter() - self.began

    # --- one round --------------------------------------------------------------------------------------------

    def _round(self, round_: int) -> None:
        began = time.perf_counter()
        arrays, losses = self._train(round_)
        seconds = time.perf_counter() - began
        self._take_over(round_, arrays, seconds)
        named = {"loss" if phase == "task" else f"loss_{phase}": loss for phase, loss in losses.items()}
        train = {"round": round_, "split": "train", "n": self._samples, **named, "train_seconds": seconds}
        validation = self._validate(round_)
        self.directory.append("metrics.jsonl", [train, *([validation] if validation else [])])
        self.training.wire_bytes, self.training.wall_seconds = self.meter.total, self._wall_seconds()
        checkpoints.save(self.directory.checkpoints, self.training)
        self.progress.round_done(round_, losses, validation)

    def _take_over(self, round_: int, arrays: ArrayRecord, seconds: float) -> None:
        """The aggregated groups, and what belongs to them, become the state of the run."""
        training, federation = self.training, self.started.federation
        training.groups = {g: messages.unpack_group(r) for g, r in messages.unflatten(arrays).items()}
        training.round, training.norms = round_, self._norms
        training.trained, training.quality = dict(federation.trained), dict(federation.quality)
        training.accepted = dict(federation.accepted)
        training.strategy = self.strategy.state()
        training.train_seconds += seconds

    def _train(self, round_: int) -> tuple[ArrayRecord, dict[str, float]]:
        """New arrays and mean losses; below the quorum the round is repeated from the same parameters."""
        packed = {g: messages.pack_group(state) for g, state in self.training.groups.items()}
        for attempt in range(1, self.config.sites.retries + 2):
            self._refresh(round_)
            sent = self.strategy.configure_train(round_, messages.flatten(packed), ConfigRecord(), self.grid)
            self.progress.round_started(round_, len(sent))
            replies, received = self._exchange(sent, packed)
            self._record(round_, attempt, sent, replies)
            if len(replies.messages) >= needed(self.config.sites.quorum, len(sent)):
                break
            self.progress.note(
                f"round {round_}: attempt {attempt} of {self.config.sites.retries + 1} was short of the quorum"
            )
        else:
            share = f"the quorum is {self.config.sites.quorum:.0%} (sites.quorum)"
            raise RunError(f"round {round_} failed {attempt} times: {replies.answered()}, {share}. {replies.reasons()}")
        ordered = {name: replies.messages[name] for name in sorted(replies.messages)}
        arrays, losses = self.strategy.aggregate_train(round_, ordered.values())
        self.started.federation.accept(round_, received, self.strategy.left_out)
        for remark in self.strategy.remarks:
            self.progress.note(f"round {round_}: {remark}")
        self.strategy.remarks.clear()
        return arrays, dict(losses)

    def _refresh(self, round_: int) -> None:
        """Bring the federation up to date; the manifest names every site that ever took part."""
        self.started.refresh(round_)
        self.training.statistics = dict(self.started.federation.statistics)
        if self.started.federation.sites != self._described:
            self._described = dict(self.started.federation.sites)
            known = self.directory.read_json("manifest.json")
            now = sites_of(self.started)
            for text in data_changes(known["sites"], now):
                self.progress.note(text)
            self.directory.write_json("manifest.json", {**known, "sites": joined_sites(known["sites"], now)})
        if not self.started.federation.holders():
            raise RunError(f"round {round_}: no connected site holds training samples; nothing can be trained")

    def _exchange(self, sent: list[Message], packed: dict[str, ArrayRecord]) -> tuple[Replies, dict[str, TrainReply]]:
        """Send, collect, and turn every reply that cannot be aggregated into a failure; the others come as read too."""
        federation = self.started.federation
        replies = exchange(self.grid, sent, deadline_of(self.config), self.meter, self.progress.site_done)
        received: dict[str, TrainReply] = {}
        for name, reply in sorted(replies.messages.items()):
            plan = federation.plan(name)
            found = read_reply(reply, plan, {**packed, **self.strategy.beside(plan.upload)}, federation.sites[name])
            if isinstance(found, str):
                replies.reject(name, found)
            else:
                received[name] = found
        known = {**packed, **self.strategy.beside(packed)}
        groups = {name: found.groups for name, found in received.items()}
        filled = {name: {g for g, n in found.real.items() if n == 0} for name, found in received.items()}
        verdict = judge(groups, known, self.training.norms, self.config.updates, filled)
        for name, fault in verdict.faults.items():
            replies.reject(name, fault)
        self._norms = verdict.history
        self.started.mark_stale([*replies.failures, *self._changed(replies)])
        return replies, {name: found for name, found in received.items() if name in replies.messages}

    def _changed(self, replies: Replies) -> list[str]:
        """The sites whose data are not those of which they told."""
        known = self.started.federation.sites
        return [
            name for name, r in replies.messages.items() if messages.read_identity(r.content) != known[name].identity
        ]

    def _record(self, round_: int, attempt: int, sent: list[Message], replies: Replies) -> None:
        """Write the lines of ``sites.jsonl``, tell failures, and add the traffic to the run's totals."""
        lines = site_lines(round_, attempt, sent, replies, self.started.federation)
        self.training.bytes_down += sum(line["bytes_down"] for line in lines)
        self.training.bytes_up += sum(line.get("bytes_up", 0) for line in lines)
        if self.training.train_processor_seconds is not None:
            self.training.train_processor_seconds += sum(line.get("processor_seconds", 0.0) for line in lines)
        self._samples = sum(line["samples"] for line in lines if line["status"] == "ok")
        self.directory.append("sites.jsonl", lines)
        if replies.failures:
            self.progress.note(f"round {round_}: {replies.answered()}; {replies.reasons()}")

    # --- scoring ----------------------------------------------------------------------------------------------

    def _validate(self, round_: int) -> dict[str, Any] | None:
        """The validation line, on the rounds that are evaluated; a better score than ever makes the best model. Too few
        answers cost the score of this round and not what it trained."""
        if round_ % self.config.evaluate.every and round_ != self.config.rounds:
            return None
        self.progress.round_started(round_, 1, "evaluate")
        began = time.perf_counter()
        global_info = self.started.federation.global_info(round_)
        try:
            scored = self._score("validation", self.training.groups, global_info)
        except NotScoredError as error:
            self.progress.note(f"round {round_}: not scored: {error}")
            return None
        self._tell_unscored(f"round {round_}: evaluation", scored)
        line = metrics_line(round_, "validation", scored)
        chosen_by = selected(line, self.config.evaluate.select)
        if chosen_by > self.training.best.score:
            self.training.best = Best(round_, chosen_by)
            self.training.best_groups = dict(self.training.groups)
            self.training.best_trained = dict(self.training.trained)
            self.training.best_quality = dict(self.training.quality)
        return {**line, "evaluate_seconds": time.perf_counter() - began}

    def _score(self, split: str, groups: dict[str, State], global_info: GlobalInfo) -> Scored:
        return self.evaluator.score(split, groups, global_info, lambda: self._refresh(self.training.round))

    def _choose_late(self) -> None:
        """No round was scored so far: the last one is the only model that is left to choose."""
        line = self._validate(self.training.round)
        if line is None:
            told = "no round could be scored on validation samples, so that no model can be chosen"
            raise RunError(f"{told}; start the sites that hold some, and resume")
        self.directory.append("metrics.jsonl", [line])
        checkpoints.save(self.directory.checkpoints, self.training)

    def _tell_unscored(self, what: str, scored: Scored) -> None:
        if scored.replies is not None and scored.replies.failures:
            self.progress.note(f"{what}: {scored.replies.answered()}; {scored.replies.reasons()}")

    def _finish(self) -> dict[str, Any]:
        """Read test once, at the best-validation round, and write the model."""
        training = self.training
        if not any(training.trained.values()):
            done = plural(training.round, "round")
            raise RunError(f"no site trained anything in {done}; see sites.jsonl for what they sent")
        if not training.best_groups:
            self._choose_late()
        statistics = self.started.federation.statistics
        best = GlobalInfo(training.best.round, training.best_trained, training.best_quality, statistics)
        scored = self._score("test", training.best_groups, best)
        self._tell_unscored("test", scored)
        test = metrics_line(training.best.round, "test", scored)
        self.directory.append("metrics.jsonl", [test])
        model = save_model(self.directory.model, training.best_groups, self.started.recovery, best)
        return {
            "rounds": training.round,
            "best_round": training.best.round,
            "test": {key: value for key, value in test.items() if key not in ("round", "split")},
            "parameters_sha256": parameters_sha256(training.groups),
            "model_sha256": model,
            "bytes_down": training.bytes_down,
            "bytes_up": training.bytes_up,
            "wire_bytes": self.meter.total,
            "train_seconds": training.train_seconds,
            "train_processor_seconds": training.train_processor_seconds,
            "wall_seconds": self._wall_seconds(),
        }


def first_state(started: Started, known: Training | None) -> Training:
    """The newest checkpoint, or freshly initialised groups."""
    if known is not None:
        return known
    groups: dict[str, State] = {name: read_group(module) for name, module in started.recovery.build().items()}
    return Training(round=0, groups=groups)

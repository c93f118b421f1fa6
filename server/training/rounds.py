"""The rounds of a run, from the registered sites to the tested model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict

from fedrecon_core.errors import RunError, describe_error
from fedrecon_core.inference import save_model
from fedrecon_core.metrics.base import higher_is_better
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import State, parameters_sha256, read_group
from server.federation.messaging import Channel, Replies, needed
from server.federation.registration import RunSites
from server.federation.reply_validation import validate_train_reply
from server.federation.update_norms import History, judge
from server.runs.directory import RunDirectory
from server.runs.formatting import plural
from server.runs.manifest import data_changes, describe_sites, merge_sites
from server.training import checkpoints
from server.training.checkpoints import Best, Training
from server.training.evaluation import Evaluator, NotScoredError, Scored, metrics_line, selected
from server.training.progress import PlainProgress
from strategies import messages
from strategies.fedavg import FedAvg, strategy_class
from strategies.federation import Federation
from strategies.messages import SiteInfo, TrainReply


@dataclass
class Rounds:
    """The loop over the rounds. ``training`` is the state of the run, of which each round writes a checkpoint.
    ``began``: the time (``time.perf_counter``) at which the run, or its resume, began."""

    channel: Channel
    sites: RunSites
    strategy: FedAvg
    evaluator: Evaluator
    directory: RunDirectory
    progress: PlainProgress
    training: Training
    began: float
    wall_before: float = field(init=False)
    """Seconds of the run before its resume."""
    in_manifest: dict[str, SiteInfo] = field(init=False)
    """The sites as the manifest describes them."""

    def __post_init__(self) -> None:
        """Read the initial state from the checkpoint and the manifest."""
        self.wall_before = self.training.wall_seconds
        self.in_manifest = dict(self.sites.federation.sites)

    def run(self) -> dict[str, Any]:
        """Run the remaining rounds, test the best model, and return the fields of the result."""
        for round_ in range(self.training.round + 1, self.channel.config.rounds + 1):
            self._round(round_)
        return self._finish()

    def _wall_seconds(self) -> float:
        """Seconds since the run began, including those before a resume."""
        return self.wall_before + time.perf_counter() - self.began

    # --- one round --------------------------------------------------------------------------------------------

    def _round(self, round_: int) -> None:
        """Train, aggregate, evaluate, write a checkpoint."""
        began = time.perf_counter()
        training, federation = self.training, self.sites.federation
        replies, norms = self._train(round_)
        groups, losses = self.strategy.aggregate(round_, list(replies.received.values()))
        federation.accept(round_, replies.received, self.strategy.left_out)
        for note in self.strategy.notes:
            self.progress.note(f"round {round_}: {note}")
        seconds = time.perf_counter() - began
        training.round, training.groups, training.norms = round_, groups, norms
        training.trained, training.quality = dict(federation.trained), dict(federation.quality)
        training.accepted, training.strategy = dict(federation.accepted), self.strategy.state()
        training.train_seconds += seconds
        samples = sum(federation.sites[name].samples for name in replies.received)
        named = {"loss" if phase == "task" else f"loss_{phase}": loss for phase, loss in losses.items()}
        train = {"round": round_, "split": "train", "n": samples, **named, "train_seconds": seconds}
        validation = self._validate(round_)
        self.directory.append("metrics.jsonl", [train, *([validation] if validation else [])])
        training.wire_bytes, training.wall_seconds = self.channel.meter.total, self._wall_seconds()
        checkpoints.save(self.directory.checkpoints, training)
        self.progress.round_done(round_, losses, validation)

    def _train(self, round_: int) -> tuple[Replies[TrainReply], History]:
        """Return the valid replies and the new history of update norms. Below the quorum, repeat the round from the
        same parameters; ``RunError`` if all attempts are below it. The lines of all attempts are written to
        ``sites.jsonl``, and their traffic counts."""
        config = self.channel.config.sites
        for attempt in range(1, config.retries + 2):
            self._refresh(round_)
            sent = self.strategy.train_messages(round_, self.training.groups)
            self.progress.round_started(round_, len(sent))
            replies, norms = self._exchange(sent)
            lines = site_lines(round_, attempt, sent, replies, self.sites.federation)
            self.training.bytes_down += sum(line["bytes_down"] for line in lines)
            self.training.bytes_up += sum(line.get("bytes_up", 0) for line in lines)
            if self.training.train_processor_seconds is not None:
                self.training.train_processor_seconds += sum(line.get("processor_seconds", 0.0) for line in lines)
            self.directory.append("sites.jsonl", lines)
            if replies.failures:
                self.progress.note(f"round {round_}: {replies.answered()}; {replies.reasons()}")
            if len(replies.received) >= needed(config.quorum, len(sent)):
                return replies, norms
            self.progress.note(f"round {round_}: attempt {attempt} of {config.retries + 1} was below the quorum")
        quorum = f"the quorum is {config.quorum:.0%} (sites.quorum)"
        raise RunError(f"round {round_} failed {attempt} times: {replies.answered()}, {quorum}. {replies.reasons()}")

    def _refresh(self, round_: int) -> None:
        """Update the federation, and the manifest's list of all sites that have ever taken part."""
        federation = self.sites.federation
        self.sites.refresh(round_)
        self.training.statistics = dict(federation.statistics)
        if federation.sites != self.in_manifest:
            self.in_manifest = dict(federation.sites)
            known = self.directory.read_json("manifest.json")
            now = describe_sites(federation, self.sites.server_data)
            for text in data_changes(known["sites"], now):
                self.progress.note(text)
            self.directory.write_json("manifest.json", {**known, "sites": merge_sites(known["sites"], now)})
        if not federation.holders():
            raise RunError(f"round {round_}: no connected site has training samples; nothing can be trained")

    def _exchange(self, sent: list[Message]) -> tuple[Replies[TrainReply], History]:
        """Send messages, collect and decode the replies. A reply that cannot be aggregated becomes a failure. Sites
        that failed, or whose data have changed, are asked for their description again."""
        federation, groups = self.sites.federation, self.training.groups

        def read(name: str, content: RecordDict) -> TrainReply:
            plan = federation.plan(name)
            current = {**groups, **self.strategy.strategy_groups(plan.upload)}
            return validate_train_reply(content, plan, current, federation.sites[name])

        replies = self.channel.exchange(sent, self.progress.site_done).decode(read)
        verdict = judge(
            {name: reply.groups for name, reply in replies.received.items()},
            {**groups, **self.strategy.strategy_groups(groups)},
            self.training.norms,
            self.channel.config.updates,
            {name: {g for g, n in reply.real.items() if n == 0} for name, reply in replies.received.items()},
        )
        for name, fault in verdict.faults.items():
            replies.reject(name, fault)
        changed = [n for n, reply in replies.received.items() if reply.identity != federation.sites[n].identity]
        self.sites.mark_stale([*replies.failures, *changed])
        return replies, verdict.history

    # --- scoring ----------------------------------------------------------------------------------------------

    def _validate(self, round_: int) -> dict[str, Any] | None:
        """The validation line, in the rounds that are evaluated. A model with the best score so far is kept as the best
        one. If too few sites answer, the round has no score, but its training is kept."""
        config = self.channel.config
        if round_ % config.evaluate.every and round_ != config.rounds:
            return None
        self.progress.round_started(round_, 1, "evaluate")
        began, training = time.perf_counter(), self.training
        global_info = self.sites.federation.global_info(round_)
        try:
            scored = self._score("validation", training.groups, global_info, f"round {round_}: evaluation")
        except NotScoredError as error:
            self.progress.note(f"round {round_}: not scored: {error}")
            return None
        line = metrics_line(round_, "validation", scored)
        score = selected(line, config.evaluate.select)
        best = training.best
        if score > best.score if higher_is_better(config.evaluate.select) else not best.round or score < best.score:
            training.best = Best(round_, score)
            training.best_groups, training.best_trained = dict(training.groups), dict(training.trained)
            training.best_quality = dict(training.quality)
        return {**line, "evaluate_seconds": time.perf_counter() - began}

    def _score(self, split: str, groups: dict[str, State], global_info: GlobalInfo, what: str) -> Scored:
        """The score of ``groups``. Sites without a score are listed in a note that begins with ``what``."""
        scored = self.evaluator.score(split, groups, global_info, lambda: self._refresh(self.training.round))
        if scored.replies is not None and scored.replies.failures:
            self.progress.note(f"{what}: {scored.replies.answered()}; {scored.replies.reasons()}")
        return scored

    def _finish(self) -> dict[str, Any]:
        """Test the model of the best round, write it, and return the fields of the result."""
        training = self.training
        if not any(training.trained.values()):
            done = plural(training.round, "round")
            raise RunError(f"no site trained anything in {done}; sites.jsonl shows their replies")
        if not training.best_groups:  # no round was scored: only the last model is left
            line = self._validate(training.round)
            if line is None:
                reason = "no round could be scored on validation samples, so that no model can be selected"
                raise RunError(f"{reason}; start the sites that have some, and resume")
            self.directory.append("metrics.jsonl", [line])
            checkpoints.save(self.directory.checkpoints, training)
        statistics = self.sites.federation.statistics
        best = GlobalInfo(training.best.round, training.best_trained, training.best_quality, statistics)
        test = metrics_line(training.best.round, "test", self._score("test", training.best_groups, best, "test"))
        self.directory.append("metrics.jsonl", [test])
        return {
            "rounds": training.round,
            "best_round": training.best.round,
            "test": {key: value for key, value in test.items() if key not in ("round", "split")},
            "parameters_sha256": parameters_sha256(training.groups),
            "model_sha256": save_model(self.directory.model, training.best_groups, self.sites.recovery, best),
            "bytes_down": training.bytes_down,
            "bytes_up": training.bytes_up,
            "wire_bytes": self.channel.meter.total,
            "train_seconds": training.train_seconds,
            "train_processor_seconds": training.train_processor_seconds,
            "wall_seconds": self._wall_seconds(),
        }


def site_lines(
    round_: int, attempt: int, sent: list[Message], replies: Replies[TrainReply], federation: Federation
) -> list[dict[str, Any]]:
    """The lines of ``sites.jsonl``: one per sampled site, in site order. ``attempt`` counts the repetitions of a round,
    from 1."""
    lines = []
    for message in sorted(sent, key=messages.addressee):
        name = messages.addressee(message)
        down, reply = messages.group_sizes(message.content), replies.received.get(name)
        line = {
            "round": round_,
            "site": name,
            "attempt": attempt,
            "status": "failed" if reply is None else "ok",
            "samples": federation.sites[name].samples,
            "groups_down": sorted(down),
            "bytes_down": sum(down.values()),
        }
        if reply is None:
            line["reason"] = replies.failures[name]
        else:
            up = reply.sizes
            line |= {
                "groups_up": sorted(up),
                "counts": reply.counts,
                "real": reply.real,
                "bytes_up": sum(up.values()),
                **{f"{phase}_seconds": seconds for phase, seconds in reply.seconds.items()},
            }
        lines.append(line)
    return lines


def restore(sites: RunSites, known: Training | None) -> tuple[FedAvg, Training]:
    """The strategy and the state of the run, from the newest checkpoint (``known``) or those of a new run."""
    federation, training = sites.federation, known
    if training is None:
        training = Training(round=0, groups={name: read_group(m) for name, m in sites.recovery.build().items()})
    federation.trained.update(training.trained)
    federation.quality.update(training.quality)
    federation.accepted.update(training.accepted)
    strategy = strategy_class(federation.config)(federation)
    strategy.load_state(training.strategy)
    strategy.summary()
    if known is None:
        strategy.check(training.groups)
    return strategy, training


def failed_result(error: BaseException, rounds: int) -> dict[str, Any]:
    """The result of a run that failed with ``error`` after ``rounds`` rounds: status, reason and exit code."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "error": "interrupted", "exit_code": 130, "rounds": rounds}
    if not isinstance(error, Exception):  # Flower ends a ServerApp with SystemExit or another ``BaseException``
        reason = "stopped from outside, or the SuperLink ended; resume it with `fedrecon run --resume`"
        return {"status": "interrupted", "error": reason, "exit_code": 1, "rounds": rounds}
    exit_code = getattr(error, "exit_code", 1)
    return {"status": "failed", "error": describe_error(error), "exit_code": exit_code, "rounds": rounds}

"""The rounds of a run, from the handshake's federation to the tested model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import RunError
from fedrecon_core.inference import save_model
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.state import State, parameters_sha256, read_group
from server import checkpoint
from server.checkpoint import Best, Training
from server.evaluation import Evaluator, metrics_line
from server.exchange import Replies, exchange
from server.handshake import Started, deadline_of
from server.progress import PlainProgress
from server.run_directory import RunDirectory
from strategies import messages


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

    def run(self) -> dict[str, Any]:
        """Run what is left of the run, test the best model, and return the result's fields."""
        for round_ in range(self.training.round + 1, self.config.rounds + 1):
            self._round(round_)
        return self._finish()

    # --- one round --------------------------------------------------------------------------------------------

    def _round(self, round_: int) -> None:
        began = time.perf_counter()
        arrays, losses, lines = self._train(round_)
        training = self.training
        training.groups = {g: messages.unpack_group(r) for g, r in messages.unflatten(arrays).items()}
        training.round = round_
        training.trained = dict(self.started.federation.trained)
        training.quality = dict(self.started.federation.quality)
        training.strategy = self.strategy.state()
        training.train_seconds += time.perf_counter() - began
        train_line = {
            "round": round_,
            "split": "train",
            "n": sum(line["samples"] for line in lines if "bytes_up" in line),
        }
        named = {"loss" if phase == "task" else f"loss_{phase}": loss for phase, loss in losses.items()}
        metrics = [{**train_line, **named, "train_seconds": time.perf_counter() - began}]
        validation = self._validate(round_)
        self.directory.append("sites.jsonl", lines)
        self.directory.append("metrics.jsonl", [*metrics, *([validation] if validation else [])])
        checkpoint.save(self.directory.checkpoints, training)
        self.progress.round_done(round_, losses, validation)

    def _train(self, round_: int) -> tuple[ArrayRecord, dict[str, float], list[dict[str, Any]]]:
        """New arrays, mean losses and lines of ``sites.jsonl``; below the quorum, again from the same parameters."""
        current = messages.flatten({g: messages.pack_group(state) for g, state in self.training.groups.items()})
        for attempt in range(self.config.sites.retries + 1):
            sent = self.strategy.configure_train(round_, current, ConfigRecord(), self.grid)
            self.progress.round_started(round_, len(sent))
            replies = self._exchange(sent)
            if len(replies.messages) >= math.ceil(self.config.sites.quorum * len(sent)):
                break
            self.progress.note(f"round {round_}, attempt {attempt + 1}: {self._shortfall(sent, replies)}")
        else:
            raise RunError(f"round {round_} failed {attempt + 1} times: {self._shortfall(sent, replies)}")
        lines = self._site_lines(round_, sent, replies)
        for name, reason in sorted(replies.failures.items()):
            self.progress.note(f"round {round_}: {name}: {reason}")
        arrays, losses = self.strategy.aggregate_train(round_, [replies.messages[n] for n in sorted(replies.messages)])
        return arrays, dict(losses), lines

    def _exchange(self, sent: list[Message]) -> Replies:
        return exchange(self.grid, sent, deadline_of(self.config), self.progress.site_done)

    def _shortfall(self, sent: list[Message], replies: Replies) -> str:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(replies.failures.items()))
        share = f"{self.config.sites.quorum:.0%}"
        return f"{len(replies.messages)} of {len(sent)} sites answered, the quorum is {share} (sites.quorum). {reasons}"

    def _site_lines(self, round_: int, sent: list[Message], replies: Replies) -> list[dict[str, Any]]:
        """One line per sampled site, in site order; the traffic is added to the run's totals."""
        federation = self.started.federation
        lines: list[dict[str, Any]] = []
        for message in sorted(sent, key=messages.addressee):
            name = messages.addressee(message)
            down = messages.read_groups(message.content)
            line: dict[str, Any] = {
                "round": round_,
                "site": name,
                "status": "ok" if name in replies.messages else "failed",
                "samples": federation.sites[name].samples,
                "groups_down": sorted(down),
                "bytes_down": sum(messages.record_bytes(record) for record in down.values()),
                "wire_bytes": messages.wire_bytes(message.content),
            }
            line.update(_reply_fields(replies, name))
            self.training.bytes_down += line["bytes_down"]
            self.training.bytes_up += line.get("bytes_up", 0)
            self.training.wire_bytes += line["wire_bytes"]
            lines.append(line)
        return lines

    # --- scoring ----------------------------------------------------------------------------------------------

    def knowledge(self) -> Knowledge:
        """What belongs to the current groups."""
        return self.started.federation.knowledge(self.training.round)

    def _validate(self, round_: int) -> dict[str, Any] | None:
        """The validation line, on the rounds that are evaluated; a better score than ever makes the best model."""
        if round_ % self.config.evaluate.every and round_ != self.config.rounds:
            return None
        self.progress.round_started(round_, 1, "evaluate")
        began = time.perf_counter()
        score = self.evaluator.score("validation", self.training.groups, self.knowledge())
        line = metrics_line(round_, "validation", score)
        if line[self.config.evaluate.select] > self.training.best.score:
            self.training.best = Best(round_, line[self.config.evaluate.select])
            self.training.best_groups = dict(self.training.groups)
            self.training.best_trained = dict(self.training.trained)
            self.training.best_quality = dict(self.training.quality)
        return {**line, "evaluate_seconds": time.perf_counter() - began}

    def _finish(self) -> dict[str, Any]:
        """Read test once, at the best-validation round, and write the model."""
        training = self.training
        statistics = self.started.federation.statistics
        best = Knowledge(training.best.round, training.best_trained, training.best_quality, statistics)
        test = metrics_line(training.best.round, "test", self.evaluator.score("test", training.best_groups, best))
        self.directory.drop_rounds_after("metrics.jsonl", training.round)
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
            "wire_bytes": training.wire_bytes,
            "train_seconds": training.train_seconds,
        }


def _reply_fields(replies: Replies, name: str) -> dict[str, Any]:
    if name not in replies.messages:
        return {"reason": replies.failures[name]}
    content = replies.messages[name].content
    reply = messages.read_result(content)
    return {
        "groups_up": sorted(reply.groups),
        "counts": reply.counts,
        "real": reply.real,
        "bytes_up": sum(messages.record_bytes(record) for record in reply.groups.values()),
        "wire_bytes_up": messages.wire_bytes(content),
        **{f"{phase}_seconds": seconds for phase, seconds in reply.seconds.items()},
    }


def first_state(started: Started, load: Callable[[], Training | None]) -> Training:
    """The newest checkpoint, or freshly initialised groups."""
    found = load()
    if found is not None:
        return found
    groups: dict[str, State] = {name: read_group(module) for name, module in started.recovery.build().items()}
    return Training(round=0, groups=groups)

"""The reply to ``local``: what a site trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.state import State, group_bytes
from strategies.messages.describe import Identity, read_identity, write_identity
from strategies.messages.groups import bundle, read_groups


@dataclass(frozen=True)
class TrainReply:
    """A site's reply to ``local``.

    ``groups``: trained groups. ``counts``: group -> its samples or pairs; ``real``: how many of them were not fills.
    ``quality``: mapping -> validation score. ``metrics``: ``<phase>.loss`` and ``<phase>.items``. ``seconds``: per
    phase, ``total`` by the clock, and ``processor`` time. ``samples``: the site's training samples. ``kept``: whether
    the site stored a version of its state in this round.
    """

    groups: dict[str, State]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    metrics: dict[str, float]
    seconds: dict[str, float]
    samples: int
    kept: bool
    identity: Identity

    @classmethod
    def of(cls, result: TrainResult, samples: int, total: float, processor: float, identity: Identity) -> TrainReply:
        """The reply with ``result``, after ``total`` seconds by the clock and ``processor`` seconds of computing.

        A phase's loss is the item-weighted mean over those of its stages that took a step.
        """
        metrics: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for stage in result.stages:
            seconds[stage.phase] = seconds.get(stage.phase, 0.0) + stage.seconds
        for phase in sorted(seconds):
            ran = [stage for stage in result.stages if stage.phase == phase and stage.steps]
            if ran:
                metrics[f"{phase}.loss"] = sum(s.loss * s.items for s in ran) / sum(s.items for s in ran)
                metrics[f"{phase}.items"] = float(sum(s.items for s in ran))
        return cls(
            groups=result.groups,
            counts=dict(result.counts),
            real=dict(result.real),
            quality=dict(result.quality),
            metrics=metrics,
            seconds={**seconds, "total": total, "processor": processor},
            samples=samples,
            kept=result.kept,
            identity=identity,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Group -> tensor bytes."""
        return {group: group_bytes(state) for group, state in self.groups.items()}


def write_train_reply(reply: TrainReply) -> RecordDict:
    """``reply`` as the content of a message."""
    content = RecordDict({group: bundle(state) for group, state in reply.groups.items()})
    for name in ("counts", "real", "quality", "metrics", "seconds"):
        content[name] = MetricRecord(getattr(reply, name))
    content["status"] = ConfigRecord({"ok": True, "samples": reply.samples, "kept": reply.kept})
    write_identity(content, reply.identity)
    return content


def read_train_reply(content: RecordDict) -> TrainReply:
    """The reply in a message. Raises whatever a malformed record raises."""
    numbers: Any = content.metric_records
    status: Any = content.config_records["status"]
    return TrainReply(
        groups=read_groups(content),
        counts={name: int(count) for name, count in numbers["counts"].items()},
        real={name: int(count) for name, count in numbers["real"].items()},
        quality={name: float(score) for name, score in numbers["quality"].items()},
        metrics={name: float(value) for name, value in numbers["metrics"].items()},
        seconds={name: float(value) for name, value in numbers["seconds"].items()},
        samples=int(status["samples"]),
        kept=bool(status["kept"]),
        identity=read_identity(content),
    )

"""Replies of a site: trained groups to ``local``, scores to ``site``, or an error to any message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedrecon_core.errors import FedReconError, one_line
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import dense, sparse
from fedrecon_core.state import State, group_bytes
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec
from strategies.messages.describe import Identity, read_identity, write_identity
from strategies.messages.groups import bundle, read_groups
from strategies.messages.instruction import MetricValues

ERROR, LONGEST_ERROR = "error", 2000
"""The name of an error's record, and the maximum length of its texts: a site must not fill the server's log."""

# --- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainReply:
    """A site's reply to ``local``.

    ``groups``: trained groups. ``counts``: group -> number of its samples or pairs; ``real``: how many of them were not
    fills. ``quality``: mapping -> validation score. ``metrics``: ``<phase>.loss`` and ``<phase>.items``. ``seconds``:
    per phase, the ``total`` elapsed time, and ``processor`` time. ``samples``: the number of the site's training
    samples. ``kept``: whether the site stored a version of its state in this round.
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
        """Build the reply from ``result``, which took ``total`` seconds and ``processor`` seconds of processor time.

        The loss of a phase is the item-weighted mean over its stages that took a step.
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
    """The reply in a message. A malformed one may raise any exception."""
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


# --- evaluation ---------------------------------------------------------------------------------------------------


def write_scores(scores: Mapping[str, Score]) -> RecordDict:
    """The reply to ``site``. Per split: integer counts, as tables row by row (without the empty bins of histograms),
    and the sum of the losses. Scores of single samples, which ``Counts`` may contain, are not sent."""
    metrics: MetricValues = {}
    for split, score in scores.items():
        metrics[f"{split}.confusion"] = score.counts.confusion.flatten().tolist()
        metrics[f"{split}.empty_confusion"] = score.empty.confusion.flatten().tolist()
        if score.counts.histograms is not None:
            metrics[f"{split}.bins"], metrics[f"{split}.in_bins"] = sparse(score.counts.histograms)
        metrics[f"{split}.loss_sum"] = score.loss_sum
    return RecordDict({"metrics": MetricRecord(metrics), "status": ConfigRecord({"ok": True})})


def scores_of(content: RecordDict) -> MetricRecord:
    """The record of a site's scores."""
    return content.metric_records["metrics"]


def read_scores(record: Mapping[str, Any], spec: DatasetSpec) -> dict[str, Score]:
    """Split -> score on data of ``spec``, from the record of one site or from the sum over sites."""
    shapes, scores = target_of(spec).shapes(len(spec.classes)), {}

    def table(name: str) -> NDArray[np.int64]:
        return np.array(record[name], dtype=np.int64).reshape(shapes["confusion"])

    for split in sorted({key.split(".", 1)[0] for key in record}):
        counts = Counts(table(f"{split}.confusion"))
        if "histograms" in shapes:
            bins, in_bins = record[f"{split}.bins"], record[f"{split}.in_bins"]
            counts = Counts(counts.confusion, dense(bins, in_bins, shapes["histograms"]))
        scores[split] = Score(counts, Counts(table(f"{split}.empty_confusion")), float(record[f"{split}.loss_sum"]))
    return scores


# --- errors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SiteError:
    """``kind`` is the class of the error ("DataError"), ``message`` its text in one line."""

    kind: str
    message: str


def write_error(error: FedReconError) -> RecordDict:
    """The reply of a site that raised ``error``."""
    return RecordDict({ERROR: ConfigRecord({"kind": type(error).__name__, "message": str(error)[:LONGEST_ERROR]})})


def read_error(content: RecordDict) -> SiteError | None:
    """The error in a reply; None without one. Its texts are short and printable, whatever the site sends."""
    if ERROR not in content:
        return None
    record = content[ERROR]
    kind, message = (one_line(str(record.get(key, "")))[:LONGEST_ERROR] for key in ("kind", "message"))
    return SiteError(kind, message or f"{kind or 'an error'} without a message")

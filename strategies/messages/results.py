"""What a site trained: the answer to ``local``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedrecon_core.local.local_round import TrainResult
from strategies.messages.groups import bundle, pack_group, read_groups
from strategies.messages.value_types import MetricValues


@dataclass(frozen=True)
class TrainReply:
    """A site's answer to ``local``: trained groups as they came, and numbers beside them. ``kept``: whether the site
    keeps a version of its state of this round."""

    groups: dict[str, ArrayRecord]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    metrics: dict[str, float]
    seconds: dict[str, float]
    samples: int
    kept: bool


def write_result(result: TrainResult, samples: int, seconds: float, processor: float) -> RecordDict:
    """The answer to ``local``: groups, counts, mean loss, seconds per phase and ``seconds`` in all by the clock, and
    those that the ``processor`` worked for it, in which what else a machine does does not count."""
    content = RecordDict({group: bundle(pack_group(state)) for group, state in result.groups.items()})
    content["counts"] = MetricRecord(dict(result.counts))
    content["real"] = MetricRecord(dict(result.real))
    content["quality"] = MetricRecord(dict(result.quality))
    content["metrics"] = MetricRecord(_losses(result))
    content["seconds"] = MetricRecord({**_phase_seconds(result), "total": seconds, "processor": processor})
    content["status"] = ConfigRecord({"ok": True, "samples": samples, "kept": result.kept})
    return content


def _losses(result: TrainResult) -> MetricValues:
    """Phase -> loss, the item-weighted mean over the phase's stages that took a step."""
    losses: MetricValues = {}
    for phase in sorted({stage.phase for stage in result.stages}):
        ran = [stage for stage in result.stages if stage.phase == phase and stage.steps]
        if ran:
            losses[f"{phase}.loss"] = sum(s.loss * s.items for s in ran) / sum(s.items for s in ran)
            losses[f"{phase}.items"] = float(sum(s.items for s in ran))
    return losses


def _phase_seconds(result: TrainResult) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stage in result.stages:
        seconds[stage.phase] = seconds.get(stage.phase, 0.0) + stage.seconds
    return seconds


def read_result(content: RecordDict) -> TrainReply:
    """A site's trained groups and numbers."""
    return replace(read_numbers(content), groups=read_groups(content))


def read_numbers(content: RecordDict) -> TrainReply:
    """The numbers alone: no group is opened, ``groups`` is empty."""
    records = content.metric_records
    return TrainReply(
        groups={},
        counts={name: int(count) for name, count in records["counts"].items()},  # type: ignore[arg-type]
        real={name: int(count) for name, count in records["real"].items()},  # type: ignore[arg-type]
        quality={name: float(score) for name, score in records["quality"].items()},  # type: ignore[arg-type]
        metrics={name: float(value) for name, value in records["metrics"].items()},  # type: ignore[arg-type]
        seconds={name: float(value) for name, value in records["seconds"].items()},  # type: ignore[arg-type]
        samples=int(content.config_records["status"]["samples"]),  # type: ignore[arg-type]
        kept=bool(content.config_records["status"]["kept"]),
    )

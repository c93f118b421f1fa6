"""The reply to ``site``: the scores of a model on a site's samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrecon_core.local.evaluate import Score
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import dense, sparse
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec
from strategies.messages.instruction import MetricValues


def write_scores(scores: Mapping[str, Score]) -> RecordDict:
    """The reply to ``site``: per split integer counts, their tables row by row (of the histograms only the bins that
    are not 0), and the sum of the losses. Scores of single samples, which ``Counts`` may hold, are not sent."""
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
    """Split -> score on data of ``spec``, from the record of one site or the sum over sites."""
    shapes, scores = target_of(spec).shapes(len(spec.classes)), {}

    def table(name: str) -> torch.Tensor:
        return torch.tensor(record[name], dtype=torch.int64).reshape(shapes["confusion"])

    for split in sorted({key.split(".", 1)[0] for key in record}):
        counts = Counts(table(f"{split}.confusion"))
        if "histograms" in shapes:
            bins, in_bins = record[f"{split}.bins"], record[f"{split}.in_bins"]
            counts = Counts(counts.confusion, dense(bins, in_bins, shapes["histograms"]))
        scores[split] = Score(counts, Counts(table(f"{split}.empty_confusion")), float(record[f"{split}.loss_sum"]))
    return scores

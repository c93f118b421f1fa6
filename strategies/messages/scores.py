"""What a site scored: the answer to ``site``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrecon_core.local.evaluate import Score
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import dense, sparse
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec
from strategies.messages.value_types import MetricValues


def write_scores(scores: Mapping[str, Score]) -> RecordDict:
    """The answer to ``site``: per split integer counts, their tables row by row (of the histograms only what is not 0),
    and the sum of the losses. The scores themselves, which counts may have with them, stay where they are."""
    metrics: MetricValues = {}
    for split, score in scores.items():
        metrics[f"{split}.confusion"] = score.counts.confusion.flatten().tolist()
        metrics[f"{split}.empty_confusion"] = score.empty.confusion.flatten().tolist()
        if score.counts.histograms is not None:
            metrics[f"{split}.bins"], metrics[f"{split}.in_bins"] = sparse(score.counts.histograms)
        metrics[f"{split}.loss_sum"] = score.loss_sum
    return RecordDict({"metrics": MetricRecord(metrics), "status": ConfigRecord({"ok": True})})


def scores_of(content: RecordDict) -> MetricRecord:
    """A site's scores as they came."""
    return content.metric_records["metrics"]


def read_scores(metrics: Mapping[str, object], spec: DatasetSpec) -> dict[str, Score]:
    """Split -> score on data of ``spec``, from one site's record or from the sum over sites."""
    shapes, scores = target_of(spec).shapes(len(spec.classes)), {}
    for split in sorted({key.split(".", 1)[0] for key in metrics}):
        counted = Counts(_table(metrics[f"{split}.confusion"], shapes["confusion"]))
        if "histograms" in shapes:
            bins, in_bins = metrics[f"{split}.bins"], metrics[f"{split}.in_bins"]
            counted = Counts(counted.confusion, dense(bins, in_bins, shapes["histograms"]))  # type: ignore[arg-type]
        empty = Counts(_table(metrics[f"{split}.empty_confusion"], shapes["confusion"]))
        scores[split] = Score(counted, empty, float(metrics[f"{split}.loss_sum"]))  # type: ignore[arg-type]
    return scores


def _table(cells: object, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(cells, dtype=torch.int64).reshape(shape)

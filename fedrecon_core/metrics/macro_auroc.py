"""Macro AUROC: how well scores order the samples with a class above those without it, whatever the threshold."""

from typing import ClassVar

from torch import Tensor

from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.metrics.histograms import auroc, exact_auroc
from fedrecon_core.registry import METRICS


@METRICS.register("macro_auroc")
class MacroAUROC(Metric):
    """The mean area under the ROC curve over the classes that have both positives and negatives."""

    targets: ClassVar[tuple[str, ...]] = ("multilabel",)

    @staticmethod
    def compute(counts: Counts) -> float:
        """As scikit-learn's ``roc_auc_score(average="macro")`` within ``error``; 0 without any such class."""
        return _mean(_areas(counts)[0])

    @staticmethod
    def error(counts: Counts) -> float:
        """The mean of the classes' bounds; 0 where the scores themselves are at hand."""
        return _mean(_areas(counts)[1])

    @staticmethod
    def classes(counts: Counts) -> int:
        """Those that have both."""
        return len(_areas(counts)[0])


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _areas(counts: Counts) -> tuple[Tensor, Tensor]:
    if counts.logits is not None and counts.labels is not None:
        return exact_auroc(counts.logits, counts.labels)
    if counts.histograms is None:
        raise ValueError("macro_auroc needs the scores or their histograms, these counts have neither")
    return auroc(counts.histograms)

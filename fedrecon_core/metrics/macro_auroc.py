"""Macro AUROC: how well scores order the samples with a class above those without it, whatever the threshold."""

from typing import ClassVar

from torch import Tensor

from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.metrics.histograms import auroc
from fedrecon_core.registry import METRICS


@METRICS.register("macro_auroc")
class MacroAUROC(Metric):
    """The mean area under the ROC curve over the classes that have both positives and negatives."""

    targets: ClassVar[tuple[str, ...]] = ("multilabel",)

    @staticmethod
    def compute(counts: Counts) -> float:
        """As scikit-learn's ``roc_auc_score(average="macro")`` within ``error``; 0 without any such class."""
        return _mean(auroc(_histograms(counts))[0])

    @staticmethod
    def error(counts: Counts) -> float:
        """The mean of the classes' bounds."""
        return _mean(auroc(_histograms(counts))[1])


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _histograms(counts: Counts) -> Tensor:
    if counts.histograms is None:
        raise ValueError("macro_auroc needs the histograms of the scores, these counts have none")
    return counts.histograms

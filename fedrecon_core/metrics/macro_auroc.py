"""Macro AUROC: how well scores order the samples with a class above those without it, whatever the threshold."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.metrics.histograms import auroc, exact_auroc
from fedrecon_core.registry import METRICS


@METRICS.register("macro_auroc")
class MacroAUROC(Metric):
    """The mean area under the ROC curve over the classes that have both positives and negatives."""

    title = "Macro-AUROC"
    explanation = "mean area under the ROC curve; chance is 50%"
    position = 3
    targets: ClassVar[tuple[str, ...]] = ("multilabel",)

    @classmethod
    def compute(cls, counts: Counts) -> float:
        """As scikit-learn's ``roc_auc_score(average="macro")`` within ``error``; 0 if there is no such class."""
        areas, _ = cls.areas(counts)
        return float(areas.mean()) if len(areas) else 0.0

    @classmethod
    def error(cls, counts: Counts) -> float:
        """The mean of the classes' bounds; 0 if the scores themselves are available."""
        _, bounds = cls.areas(counts)
        return float(bounds.mean()) if len(bounds) else 0.0

    @classmethod
    def classes(cls, counts: Counts) -> int:
        """Number of classes that have both."""
        return len(cls.areas(counts)[0])

    @staticmethod
    def areas(counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The area of each class that has both, and its bound."""
        if counts.logits is not None and counts.labels is not None:
            return exact_auroc(counts.logits, counts.labels)
        if counts.histograms is None:
            raise ValueError("macro_auroc needs the scores or their histograms, these counts have neither")
        return auroc(counts.histograms)

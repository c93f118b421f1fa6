"""Macro F1: the measure of HAR and CrisisMMD in the FedMultimodal benchmark."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, Metric, mean_where, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("macro_f1")
class MacroF1(Metric):
    """The mean F1 of the classes: 2 TP / (2 TP + FP + FN).

    Multiclass: over the classes that occur among the true or the predicted labels. Multilabel: over all classes; one
    that does not occur has 0.
    """

    title = "Macro-F1"
    explanation = "mean F1 of the classes"
    position = 2
    targets: ClassVar[tuple[str, ...]] = ("multiclass", "multilabel")

    @staticmethod
    def compute(counts: Counts) -> float:
        """As scikit-learn's ``f1_score(average="macro", zero_division=0)``."""
        hits, total = _sums(counts.confusion, counts.target == "multilabel")
        if counts.target == "multiclass":
            hits, total = hits[total > 0], total[total > 0]
        f1 = ratio(2 * hits, total)
        return float(f1.mean()) if len(f1) else 0.0

    @classmethod
    def compute_each(cls, confusions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute all at once."""
        multilabel = confusions.ndim == 4
        hits, total = _sums(confusions, multilabel)
        f1 = ratio(2 * hits, total)
        return np.asarray(f1.mean(axis=1)) if multilabel else mean_where(f1, total > 0)


def _sums(confusion: NDArray[np.int64], multilabel: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """TP and 2 TP + FP + FN of each class, int64 [..., C]."""
    if multilabel:
        return confusion[..., 1, 1], confusion[..., 1, :].sum(axis=-1) + confusion[..., :, 1].sum(axis=-1)
    return confusion.diagonal(axis1=-2, axis2=-1), confusion.sum(axis=-2) + confusion.sum(axis=-1)

"""Accuracy: the share of correct predictions."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, Metric, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("accuracy")
class Accuracy(Metric):
    """Multiclass: the share of samples whose predicted class is the true one. Multilabel: the share of correct
    yes-or-no predictions over all samples and classes."""

    title = "Accuracy"
    explanation = "share of test samples classified correctly"
    position = 0

    targets: ClassVar[tuple[str, ...]] = ("multiclass", "multilabel")

    @staticmethod
    def compute(counts: Counts) -> float:
        """The diagonal's share of all counts."""
        right = counts.confusion.diagonal(axis1=-2, axis2=-1).sum()
        return float(ratio(right, counts.confusion.sum()))

    @classmethod
    def compute_each(cls, confusions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute all at once."""
        right = confusions.diagonal(axis1=-2, axis2=-1).reshape(len(confusions), -1).sum(axis=1)
        return ratio(right, confusions.reshape(len(confusions), -1).sum(axis=1))

    @classmethod
    def explain(cls, target: str, classes: int) -> str:
        """For multilabel data, mention that there is a prediction per class."""
        return "share of correct yes-or-no answers, over all classes" if target == "multilabel" else cls.explanation

"""Unweighted average recall (macro recall, balanced accuracy): the measure of MELD in the paper."""

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, Metric, mean_where, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("uar")
class UnweightedAverageRecall(Metric):
    """The mean recall over the classes that occur among the true labels."""

    title = "UAR"
    explanation = "mean recall of the classes"
    position = 1

    @staticmethod
    def compute(counts: Counts) -> float:
        """As scikit-learn's ``balanced_accuracy_score``."""
        support = counts.confusion.sum(axis=1)
        recall = ratio(counts.confusion.diagonal(), support)[support > 0]
        return float(recall.mean()) if len(recall) else 0.0

    @classmethod
    def compute_each(cls, confusions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute all at once."""
        support = confusions.sum(axis=-1)
        return mean_where(ratio(confusions.diagonal(axis1=-2, axis2=-1), support), support > 0)

    @classmethod
    def explain(cls, target: str, classes: int) -> str:
        """Add the value of a random guess."""
        return f"{cls.explanation}; chance is {100 * (1 / classes):.0f}%" if classes else cls.explanation

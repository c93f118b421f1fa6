"""Unweighted average recall (macro recall, balanced accuracy): the measure of MELD in the paper."""

from torch import Tensor

from fedrecon_core.metrics.base import Metric, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("uar")
class UnweightedAverageRecall(Metric):
    """The mean recall over the classes that occur among the true labels."""

    @staticmethod
    def compute(confusion: Tensor) -> float:
        """As scikit-learn's ``balanced_accuracy_score``."""
        support = confusion.sum(dim=1)
        recall = ratio(confusion.diagonal(), support)[support > 0]
        return float(recall.mean()) if len(recall) else 0.0

"""Accuracy: the share of samples whose predicted class is the true one."""

from torch import Tensor

from fedrecon_core.metrics.base import Metric, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("accuracy")
class Accuracy(Metric):
    """Correct over all."""

    @staticmethod
    def compute(confusion: Tensor) -> float:
        """Trace over sum."""
        return float(ratio(confusion.trace(), confusion.sum()))

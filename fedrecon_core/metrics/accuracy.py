"""Accuracy: the share of right answers."""

from typing import ClassVar

from torch import Tensor

from fedrecon_core.metrics.base import Counts, Metric, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("accuracy")
class Accuracy(Metric):
    """Multiclass: the share of samples whose predicted class is the true one. Multilabel: the share of right answers,
    yes or no, over all samples and classes."""

    targets: ClassVar[tuple[str, ...]] = ("multiclass", "multilabel")

    @staticmethod
    def compute(counts: Counts) -> float:
        """The diagonals over everything."""
        right = counts.confusion.diagonal(dim1=-2, dim2=-1).sum()
        return float(ratio(right, counts.confusion.sum()))

    @classmethod
    def compute_each(cls, confusions: Tensor) -> Tensor:
        """At once."""
        right = confusions.diagonal(dim1=-2, dim2=-1).flatten(1).sum(dim=1)
        return ratio(right, confusions.flatten(1).sum(dim=1))

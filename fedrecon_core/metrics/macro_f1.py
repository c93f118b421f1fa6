"""Macro F1: the measure of HAR and CrisisMMD in the FedMultimodal benchmark."""

from typing import ClassVar

from torch import Tensor

from fedrecon_core.metrics.base import Counts, Metric, mean_where, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("macro_f1")
class MacroF1(Metric):
    """The mean F1 of the classes: 2 TP / (2 TP + FP + FN). Multiclass: of those that occur among the true or the
    predicted labels. Multilabel: of all, where one that does not occur has 0."""

    targets: ClassVar[tuple[str, ...]] = ("multiclass", "multilabel")

    @staticmethod
    def compute(counts: Counts) -> float:
        """As scikit-learn's ``f1_score(average="macro", zero_division=0)``."""
        hits, total = _sums[counts.target](counts.confusion)
        f1 = ratio(2 * hits, total)
        return float(f1.mean()) if len(f1) else 0.0

    @classmethod
    def compute_each(cls, confusions: Tensor) -> Tensor:
        """At once."""
        if confusions.dim() == 4:  # multilabel
            hits, total = _of_labels(confusions)
            return ratio(2 * hits, total).mean(dim=1)
        total = confusions.sum(dim=1) + confusions.sum(dim=2)
        return mean_where(ratio(2 * confusions.diagonal(dim1=1, dim2=2), total), total > 0)


def _of_classes(confusion: Tensor) -> tuple[Tensor, Tensor]:
    total = confusion.sum(dim=0) + confusion.sum(dim=1)
    occurs = total > 0
    return confusion.diagonal()[occurs], total[occurs]


def _of_labels(confusion: Tensor) -> tuple[Tensor, Tensor]:
    return confusion[..., 1, 1], confusion[..., 1, :].sum(dim=-1) + confusion[..., :, 1].sum(dim=-1)


_sums = {"multiclass": _of_classes, "multilabel": _of_labels}
"""Target -> (true positives, 2 TP + FP + FN), int64 per class that counts."""

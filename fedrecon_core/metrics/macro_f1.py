"""Macro F1: the measure of HAR and CrisisMMD in the FedMultimodal benchmark."""

from torch import Tensor

from fedrecon_core.metrics.base import Metric, ratio
from fedrecon_core.registry import METRICS


@METRICS.register("macro_f1")
class MacroF1(Metric):
    """The mean F1 over the classes that occur among the true or the predicted labels."""

    @staticmethod
    def compute(confusion: Tensor) -> float:
        """As scikit-learn's ``f1_score(average="macro")``."""
        total = confusion.sum(dim=0) + confusion.sum(dim=1)
        f1 = ratio(2 * confusion.diagonal(), total)[total > 0]
        return float(f1.mean()) if len(f1) else 0.0

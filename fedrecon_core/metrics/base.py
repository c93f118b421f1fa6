"""What a classification metric offers: a number from a pooled confusion matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from fedrecon_core.registry import METRICS


class Metric(ABC):
    """Base of a registered metric. A confusion matrix is int64 [C, C], rows true, columns predicted."""

    @staticmethod
    @abstractmethod
    def compute(confusion: Tensor) -> float:
        """The metric in [0, 1]; 0 for an empty matrix."""


def all_metrics(confusion: Tensor) -> Mapping[str, float]:
    """Every registered metric of ``confusion``, by name."""
    return {name: cls.compute(confusion) for name, cls in METRICS.items()}  # type: ignore[attr-defined]


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` in float64, 0 where ``whole`` is 0."""
    return part.double() / whole.clamp(min=1).double()

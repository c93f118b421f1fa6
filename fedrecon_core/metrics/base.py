"""What predictions add up to over any number of sites, and what a metric makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import METRICS
from fedrecon_core.types import DatasetSpec


@dataclass(frozen=True)
class Counts:
    """Answers to questions about samples. A multiclass set asks one question of each sample (which class is it?), a
    multilabel one a question per class (is it of this class?).

    ``confusion`` int64: multiclass [C, C], rows the true class, columns the predicted one; multilabel [C, 2, 2], for
    each class rows the truth (no, yes), columns the answer. ``histograms`` int64 [C, 2, BINS], multilabel alone: for
    each class, how many samples without and with it have their logit in each bin (``metrics/histograms.py``).
    """

    confusion: Tensor
    histograms: Tensor | None = None

    @property
    def target(self) -> str:
        """``multiclass`` or ``multilabel``."""
        return "multiclass" if self.confusion.dim() == 2 else "multilabel"

    @property
    def questions(self) -> Tensor:
        """int64 [Q, rows, columns]: a confusion matrix per question; each of them counts every sample once."""
        return self.confusion.reshape(-1, *self.confusion.shape[-2:])

    @property
    def samples(self) -> int:
        """How many samples were counted."""
        return int(self.questions[0].sum())

    def __add__(self, other: Counts) -> Counts:
        """The counts of both sets together."""
        confusion = self.confusion + other.confusion
        if self.histograms is None or other.histograms is None:
            return Counts(confusion)
        return Counts(confusion, self.histograms + other.histograms)


class Metric(ABC):
    """Base of a registered metric."""

    targets: ClassVar[tuple[str, ...]] = ("multiclass",)
    """The targets of a data set (``DatasetSpec.target``) that it applies to; ``compute`` sees counts of no other."""

    @staticmethod
    @abstractmethod
    def compute(counts: Counts) -> float:
        """The metric in [0, 1]; 0 where nothing was counted."""

    @staticmethod
    def error(counts: Counts) -> float | None:
        """At most how far ``compute`` is from the metric of the samples themselves; None where it is exact."""
        return None


def all_metrics(counts: Counts) -> dict[str, float]:
    """Every registered metric that applies to ``counts``, by name, with ``<name>_error`` beside one that is not
    exact."""
    found: dict[str, float] = {}
    for name in applicable(counts.target):
        metric: type[Metric] = METRICS.get(name)
        found[name] = metric.compute(counts)
        if (error := metric.error(counts)) is not None:
            found[f"{name}_error"] = error
    return found


def applicable(target: str) -> list[str]:
    """The names of the metrics that apply to ``target``, sorted."""
    return [name for name, metric in METRICS.items() if target in metric.targets]  # type: ignore[attr-defined]


def check_select(name: str, spec: DatasetSpec) -> None:
    """``ConfigError`` where the metric ``name``, which chooses the best round, does not apply to the data."""
    known = applicable(spec.target)
    if name not in known:
        raise ConfigError(
            f"evaluate.select: expected a metric of {spec.target} data such as {spec.name} ({', '.join(known)}), "
            f"found {name}; choose one of them"
        )


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` in float64, 0 where ``whole`` is 0."""
    return part.double() / whole.clamp(min=1).double()

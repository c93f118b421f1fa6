"""Counts of predictions, which can be added over sites, and the metrics that are computed from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import METRIC_PACKAGES, METRICS, discover
from fedrecon_core.types import DatasetSpec


@dataclass(frozen=True)
class Counts:
    """Counts of predictions and true labels.

    ``confusion`` int64: multiclass [C, C], rows the true class, columns the predicted one; multilabel [C, 2, 2], one
    matrix per class, rows the truth (no, yes), columns the prediction. ``histograms`` int64 [C, 2, BINS], multilabel
    only: for each class, the number of samples without and with it whose logit is in each bin
    (``metrics/histograms.py``). ``logits`` [N, C] and ``labels`` (zeros and ones [N, C]), multilabel only: the samples
    themselves, available only to the process that has the data. They make a metric exact, and are never sent.
    """

    confusion: NDArray[np.int64]
    histograms: NDArray[np.int64] | None = None
    logits: NDArray[np.floating[Any]] | None = None
    labels: NDArray[np.int64] | None = None

    @property
    def target(self) -> str:
        """``multiclass`` or ``multilabel``."""
        return "multiclass" if self.confusion.ndim == 2 else "multilabel"

    @property
    def matrices(self) -> NDArray[np.int64]:
        """int64 [Q, rows, columns]: the confusion matrix, or one per class; each counts every sample once."""
        return self.confusion.reshape(-1, *self.confusion.shape[-2:])

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.matrices[0].sum())

    def __add__(self, other: Counts) -> Counts:
        """The counts of both sets together. Raises ``ValueError`` if only one of them has histograms or samples."""
        parts: dict[str, Any] = {}
        for name in ("histograms", "logits", "labels"):
            first, second = getattr(self, name), getattr(other, name)
            if (first is None) != (second is None):
                found = f"counts with {name} and counts without cannot be added"
                raise ValueError(f"{found}; count both sets in the same way")
            if first is not None:
                parts[name] = first + second if name == "histograms" else np.concatenate([first, second])
        return Counts(self.confusion + other.confusion, **parts)


class Metric(ABC):
    """Base of a registered metric. Everything that tables, reports and plots show about it is declared here."""

    title: ClassVar[str] = ""
    """Heading in tables and plots, for example ``Macro-F1``; if empty, the metric's name is used."""
    explanation: ClassVar[str] = ""
    """Short description in lower case, for the report of a run."""
    position: ClassVar[int] = 100
    """Metrics are shown in ascending order of this number, then of their names."""
    higher_is_better: ClassVar[bool] = True
    """Whether the best round and the best method are those with the highest value, or the lowest."""
    percentage: ClassVar[bool] = True
    """Whether values are shown in per cent."""
    targets: ClassVar[tuple[str, ...]] = ("multiclass",)
    """The targets of a data set (``DatasetSpec.target``) that it applies to; ``compute`` gets only their counts."""

    @staticmethod
    @abstractmethod
    def compute(counts: Counts) -> float:
        """The metric, a share in [0, 1] if ``percentage``; 0 if there are no samples."""

    @classmethod
    def compute_each(cls, confusions: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 [D]: ``compute`` for each of ``confusions`` (int64 [D, ...]), to within 1e-12.

        A bootstrap needs a thousand of them: an override computes them at once. A metric that needs more than confusion
        matrices raises ``ValueError``.
        """
        return np.array([cls.compute(Counts(one)) for one in confusions], dtype=np.float64)

    @staticmethod
    def error(counts: Counts) -> float | None:
        """Bound on the difference between ``compute`` and the metric of the samples themselves; None if it is exact."""
        return None

    @staticmethod
    def classes(counts: Counts) -> int | None:
        """Number of classes that ``compute`` is a mean over, if it may leave some out; else None. With 0 classes the
        metric is undefined, whatever ``compute`` returns."""
        return None

    @classmethod
    def explain(cls, target: str, classes: int) -> str:
        """``explanation`` for data of ``target`` with ``classes`` classes (0: unknown)."""
        return cls.explanation


def all_metrics(counts: Counts) -> dict[str, float]:
    """All registered metrics that apply to ``counts``, by name.

    ``<name>_error`` accompanies a metric that may not be exact, ``<name>_classes`` one that may leave classes out; if
    it leaves out all of them, this 0 is reported instead of the metric.
    """
    found: dict[str, float] = {}
    for name in applicable(counts.target):
        metric: type[Metric] = METRICS.get(name)
        if (classes := metric.classes(counts)) is not None:
            found[f"{name}_classes"] = classes
        if classes == 0:
            continue
        found[name] = metric.compute(counts)
        if (error := metric.error(counts)) is not None:
            found[f"{name}_error"] = error
    return found


def applicable(target: str) -> list[str]:
    """The names of the metrics that apply to ``target``, sorted."""
    return [name for name, metric in METRICS.items() if target in metric.targets]


@cache
def _import_metrics() -> None:
    discover(METRIC_PACKAGES)


def shown_metrics() -> dict[str, type[Metric]]:
    """Name -> metric, in the order in which tables and reports show them."""
    _import_metrics()
    return dict(sorted(METRICS.items(), key=lambda item: (item[1].position, item[0])))


def metric_title(name: str) -> str:
    """The heading for values of the metric ``name``, for ``loss`` too."""
    metric = shown_metrics().get(name)
    return (metric and metric.title) or name.replace("_", " ").capitalize()


def is_percentage(name: str) -> bool:
    """Whether values of the metric ``name`` are shown in per cent; those of ``loss`` are not."""
    metric = shown_metrics().get(name)
    return metric.percentage if metric else name != "loss"


def higher_is_better(name: str) -> bool:
    """Whether higher values of the metric ``name`` are better; those of ``loss`` are not."""
    metric = shown_metrics().get(name)
    return metric.higher_is_better if metric else name != "loss"


def check_select(name: str, spec: DatasetSpec) -> None:
    """Raise ``ConfigError`` if the metric ``name``, which chooses the best round, does not apply to the data."""
    known = applicable(spec.target)
    if name not in known:
        raise ConfigError(
            f"evaluate.select: expected a metric of {spec.target} data such as {spec.name} ({', '.join(known)}), "
            f"found {name}; choose one of them"
        )


def mean_where(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[D]: the mean of each row of ``values`` [D, C] over its ``counted`` entries; 0 without any."""
    return ratio((values * counted).sum(axis=-1), counted.sum(axis=-1))


def ratio(part: NDArray[Any], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """``part / whole`` in float64, 0 where ``whole`` is 0."""
    return np.asarray(part / np.maximum(whole, 1), dtype=np.float64)

"""What predictions add up to over any number of sites, and what a metric makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
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
    ``logits`` [N, C] and ``labels`` (zeros and ones [N, C]), multilabel alone: the samples' own, where whoever counts
    holds them. They make a metric exact, and never travel.
    """

    confusion: Tensor
    histograms: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None

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
        """The counts of both sets together. ``ValueError`` where one of them lacks what the other has."""
        return Counts(
            self.confusion + other.confusion,
            _together("histograms", self.histograms, other.histograms, torch.add),
            _together("logits", self.logits, other.logits, _joined),
            _together("labels", self.labels, other.labels, _joined),
        )


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second])


def _together(
    what: str, first: Tensor | None, second: Tensor | None, join: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise ValueError(f"counts with {what} and counts without cannot be added; count both sets in the same way")
    return join(first, second)


class Metric(ABC):
    """Base of a registered metric."""

    targets: ClassVar[tuple[str, ...]] = ("multiclass",)
    """The targets of a data set (``DatasetSpec.target``) that it applies to; ``compute`` sees counts of no other."""

    @staticmethod
    @abstractmethod
    def compute(counts: Counts) -> float:
        """The metric in [0, 1]; 0 where nothing was counted."""

    @classmethod
    def compute_each(cls, confusions: Tensor) -> Tensor:
        """float64 [D]: ``compute`` of each of ``confusions`` (int64 [D, ...]) as if counts held nothing more, to within
        1e-12. A bootstrap asks for a thousand: who overrides this computes them at once. ``ValueError`` from a metric
        that needs more than answers."""
        return torch.tensor([cls.compute(Counts(one)) for one in confusions], dtype=torch.float64)

    @staticmethod
    def error(counts: Counts) -> float | None:
        """At most how far ``compute`` is from the metric of the samples themselves; None where it is always exact."""
        return None

    @staticmethod
    def classes(counts: Counts) -> int | None:
        """Over how many classes ``compute`` is a mean, where some may have none of their own; None where each has. With
        0 there is no such number, whatever ``compute`` says."""
        return None


def all_metrics(counts: Counts) -> dict[str, float]:
    """Every registered metric that applies to ``counts``, by name, with ``<name>_error`` beside one that may
    not be exact and ``<name>_classes`` beside one that some classes may lack; where all do, that 0 stands alone."""
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


def check_select(name: str, spec: DatasetSpec) -> None:
    """``ConfigError`` where the metric ``name``, which chooses the best round, does not apply to the data."""
    known = applicable(spec.target)
    if name not in known:
        raise ConfigError(
            f"evaluate.select: expected a metric of {spec.target} data such as {spec.name} ({', '.join(known)}), "
            f"found {name}; choose one of them"
        )


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """[D]: the mean of each row of ``values`` [D, C] over its entries that are ``counted`` (bool); 0 without any."""
    return ratio((values * counted).sum(dim=-1), counted.sum(dim=-1))


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` in float64, 0 where ``whole`` is 0."""
    return part.double() / whole.clamp(min=1).double()

"""Kinds of labels: one class per sample, or any number of classes. Training, prediction and counting differ only
here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import BINS, confusion_matrices, histograms
from fedrecon_core.types import DatasetSpec


class Target(ABC):
    """Loss, predictions and counts from logits [N, C] and labels (int64 [N], or zeros and ones [N, C])."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, in nats, differentiable."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[N]: the loss of each sample, in nats."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """[N, C] in [0, 1]."""

    @abstractmethod
    def predictions(self, logits: Tensor) -> Tensor:
        """int64, in the form of the labels."""

    @abstractmethod
    def count(self, logits: Tensor, labels: Tensor) -> Counts:
        """Counts of the predictions, on the CPU; a site may send them."""

    @abstractmethod
    def with_scores(self, counts: Counts, logits: Tensor, labels: Tensor) -> Counts:
        """``counts`` of these samples, with the scores that make their metrics exact, only for the process that has the
        data."""

    @abstractmethod
    def shapes(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Field of ``Counts`` -> its shape, for the fields in use."""

    @abstractmethod
    def columns(self, logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
        """Columns of a table of predictions: ``label`` and ``predicted``, and scores if they are needed."""


class Multiclass(Target):
    """Exactly one class: softmax and cross-entropy."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, mean over the batch."""
        return F.cross_entropy(logits, labels)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits, labels, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the classes: they add up to 1."""
        return logits.softmax(dim=1)

    def predictions(self, logits: Tensor) -> Tensor:
        """The likeliest class."""
        return logits.argmax(dim=1)

    def count(self, logits: Tensor, labels: Tensor) -> Counts:
        """A confusion matrix."""
        classes = logits.shape[1]
        cells = torch.bincount(labels * classes + self.predictions(logits), minlength=classes**2)
        return Counts(cells.reshape(classes, classes).cpu().numpy())

    def with_scores(self, counts: Counts, logits: Tensor, labels: Tensor) -> Counts:
        """The counts unchanged, since they are exact."""
        return counts

    def shapes(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Shape of the matrix."""
        return {"confusion": (classes, classes)}

    def columns(self, logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
        """Positions of classes."""
        return {"label": labels, "predicted": self.predictions(logits)}


class Multilabel(Target):
    """Any number of classes: a sigmoid and a binary cross-entropy for each of them."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, mean over batch and classes."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, mean over the classes."""
        found = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        return found.mean(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of each class, independent of the others."""
        return logits.sigmoid()

    def predictions(self, logits: Tensor) -> Tensor:
        """Zeros and ones [N, C]: the classes whose probability is above 0.5."""
        return (logits > 0).long()

    def count(self, logits: Tensor, labels: Tensor) -> Counts:
        """Histograms of the logits, and confusion matrices at probability 0.5."""
        counted = histograms(logits.detach().cpu().numpy(), labels.cpu().numpy())
        return Counts(confusion_matrices(counted), counted)

    def with_scores(self, counts: Counts, logits: Tensor, labels: Tensor) -> Counts:
        """With logits and labels in addition to their histograms."""
        return replace(counts, logits=logits.cpu().numpy(), labels=labels.cpu().numpy())

    def shapes(self, classes: int) -> dict[str, tuple[int, ...]]:
        """Shapes of both."""
        return {"confusion": (classes, 2, 2), "histograms": (classes, 2, BINS)}

    def columns(self, logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
        """Lists of positions of classes, and ``probability_<class>`` in float64, so that different scores stay
        different."""
        probabilities = self.probabilities(logits.double())
        scores = {f"probability_{name}": column for name, column in zip(classes, probabilities.T, strict=True)}
        return {"label": _positions(labels), "predicted": _positions(self.predictions(logits)), **scores}


def _positions(rows: Tensor) -> list[list[int]]:
    return [torch.nonzero(row).flatten().tolist() for row in rows.cpu()]


TARGETS: dict[str, Target] = {"multiclass": Multiclass(), "multilabel": Multilabel()}


def target_of(spec: DatasetSpec) -> Target:
    """The target of a data set."""
    return TARGETS[spec.target]

"""Scoring a model on a site's samples: integer confusion matrices and loss sums, so that any average is exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core import seeding
from fedrecon_core.data.site import SiteData
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.fills import chunks
from fedrecon_core.recovery.stage import Knowledge, set_frozen
from fedrecon_core.state import EXTRACTORS, Groups
from fedrecon_core.task.model import TaskModel


@dataclass(frozen=True)
class Score:
    """``confusion`` int64 [C, C], rows the true class, columns the predicted one; ``loss_sum`` in nats.

    Samples with nothing present are unconditioned: they are counted apart, in ``empty_confusion``.
    """

    confusion: Tensor
    empty_confusion: Tensor
    loss_sum: float

    def __add__(self, other: Score) -> Score:
        """The score of both sets together."""
        return Score(
            self.confusion + other.confusion,
            self.empty_confusion + other.empty_confusion,
            self.loss_sum + other.loss_sum,
        )


@dataclass(frozen=True)
class Predictions:
    """``logits`` float32 [N, C] of every sample, in order."""

    logits: Tensor

    def score(self, data: SiteData) -> Score:
        """Confusion matrices against the labels of ``data``."""
        classes = self.logits.shape[1]
        guesses, something = self.logits.argmax(dim=1), data.present.any(dim=1)
        losses = F.cross_entropy(self.logits.double(), data.labels, reduction="none")
        return Score(
            confusion=_confusion(data.labels[something], guesses[something], classes),
            empty_confusion=_confusion(data.labels[~something], guesses[~something], classes),
            loss_sum=float(losses[something].sum()),
        )


def _confusion(labels: Tensor, guesses: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes).cpu()


def _ready(groups: Groups, knowledge: Knowledge) -> Groups:
    return {
        name: module
        for name, module in groups.items()
        if not name.startswith(EXTRACTORS) or knowledge.trained.get(name, 0) > 0
    }


def predict(recovery: Recovery, groups: Groups, knowledge: Knowledge, data: SiteData, name: str) -> Predictions:
    """Class logits for all samples of ``data`` with the groups at hand; ``name`` keys the stream of random fills.

    A modality that no site has trained an extractor for gives no token: it would only add noise.
    """
    config = recovery.config
    model = TaskModel(_ready(groups, knowledge), recovery.spec)
    for module in groups.values():
        set_frozen(module, frozen=True)
    found = [torch.zeros(0, len(recovery.spec.classes), device=data.device)]
    with seeding.scope(config.seed, "evaluate", name), torch.inference_mode():
        for samples in chunks(len(data), data.device, config.evaluate.batch):
            batch = data.batch(samples)
            found.append(model.logits(batch, recovery.recover(batch, groups, knowledge)))
    return Predictions(torch.cat(found))

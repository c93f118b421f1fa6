"""Scoring a model on a site's samples: integer counts and loss sums, so that any average is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.metrics.base import Counts
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.fills import chunks
from fedrecon_core.recovery.stage import GlobalInfo, set_frozen
from fedrecon_core.state import EXTRACTORS, Groups
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.target import target_of
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch


@dataclass(frozen=True)
class Score:
    """``counts`` of the samples that show something; ``loss_sum`` over them, in nats.

    Samples with nothing present are unconditioned: they are counted apart, in ``empty``, without histograms.
    """

    counts: Counts
    empty: Counts
    loss_sum: float

    def __add__(self, other: Score) -> Score:
        """The score of both sets together."""
        return Score(self.counts + other.counts, self.empty + other.empty, self.loss_sum + other.loss_sum)


@dataclass(frozen=True)
class Predictions:
    """``logits`` float32 [N, C] of every sample, in order."""

    logits: Tensor

    def score(self, data: SiteData) -> Score:
        """What they add up to against the labels of ``data``."""
        target, something = target_of(data.spec), data.present.any(dim=1)
        losses = target.losses(self.logits.double(), data.labels)
        return Score(
            counts=target.count(self.logits[something], data.labels[something]),
            empty=Counts(target.count(self.logits[~something], data.labels[~something]).confusion),
            loss_sum=float(losses[something].sum()),
        )


Reader = Callable[[TaskModel, Batch, Sequence[Fill]], Tensor]
"""What is made of a batch and its fills: a tensor [B, ...]."""


@dataclass(frozen=True)
class EvaluationContext:
    """A model that a site is to score: ``groups`` on its samples ``data``; ``name`` keys the stream of random fills.
    ``training`` opens the site's training samples, which a strategy may fit something to; they may be none."""

    recovery: Recovery
    groups: Groups
    global_info: GlobalInfo
    data: SiteData
    name: str
    training: Callable[[], SiteData]

    def predictions(self) -> Predictions:
        """Those of the task model."""
        return predict(self.recovery, self.groups, self.global_info, self.data, self.name)

    def read(self, reader: Reader, data: SiteData, name: str) -> Tensor:
        """What ``reader`` makes of all of ``data``, [N, ...], with the model in its state of evaluation."""
        return _read(Reading(self.recovery, self.groups, self.global_info), data, name, reader)


def _ready(groups: Groups, global_info: GlobalInfo) -> Groups:
    return {
        name: module
        for name, module in groups.items()
        if not name.startswith(EXTRACTORS) or global_info.trained.get(name, 0) > 0
    }


def predict(
    recovery: Recovery, groups: Groups, global_info: GlobalInfo, data: SiteData, name: str, *, threads: int = 1
) -> Predictions:
    """Class logits for all samples of ``data`` with the groups at hand; ``name`` keys the stream of random fills.

    A modality that no site has trained an extractor for gives no token: it would only add noise. ``threads`` batches
    are read at the same time, with the same logits to the last bit.
    """
    return Predictions(_read(Reading(recovery, groups, global_info, threads), data, name, TaskModel.logits))


@dataclass(frozen=True)
class Reading:
    """A model, and how many batches it may read at the same time."""

    recovery: Recovery
    groups: Groups
    global_info: GlobalInfo
    threads: int = 1


def _read(model: Reading, data: SiteData, name: str, reader: Reader) -> Tensor:
    """What ``reader`` makes of ``data``, batch by batch; an empty set is one empty batch."""
    config = model.recovery.config
    task = TaskModel(_ready(model.groups, model.global_info), model.recovery.spec)
    for module in model.groups.values():
        set_frozen(module, frozen=True)

    def read(samples: Tensor) -> Tensor:
        with torch.inference_mode():  # which holds for one thread alone
            batch = data.batch(samples)
            return reader(task, batch, model.recovery.recover(batch, model.groups, model.global_info))

    with seeding.scope(config.seed, "evaluate", name):
        found = _each(read, list(chunks(len(data), data.device, config.evaluate.batch)), model.threads)
    return torch.cat(found)


def _each(read: Callable[[Tensor], Tensor], batches: list[Tensor], threads: int) -> list[Tensor]:
    """``read`` of every batch, in order. A thread of Python's that works with PyTorch lets the others work, too; inside
    each, PyTorch uses as many threads of its own as here."""
    if min(threads, len(batches)) <= 1:
        return [read(samples) for samples in batches]
    own = torch.get_num_threads()
    with ThreadPoolExecutor(min(threads, len(batches)), initializer=torch.set_num_threads, initargs=(own,)) as pool:
        return list(pool.map(read, batches))

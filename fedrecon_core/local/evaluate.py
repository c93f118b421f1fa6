"""Scoring of a model on a site's samples: integer counts and loss sums, so that averages over sites are exact."""

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
    """``counts`` of the samples with at least one modality, and ``loss_sum`` over them, in nats.

    Samples without any modality are counted separately, in ``empty``, without histograms.
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
        """Score the predictions against the labels of ``data``."""
        target, something = target_of(data.spec), data.present.any(dim=1)
        losses = target.losses(self.logits.double(), data.labels)
        return Score(
            counts=target.count(self.logits[something], data.labels[something]),
            empty=Counts(target.count(self.logits[~something], data.labels[~something]).confusion),
            loss_sum=float(losses[something].sum()),
        )


Reader = Callable[[TaskModel, Batch, Sequence[Fill]], Tensor]
"""(model, batch, fills) -> a tensor [B, ...], for example the logits."""


@dataclass(frozen=True)
class GlobalModel:
    """A recovery with trained groups, and the information that belongs to them."""

    recovery: Recovery
    groups: Groups
    global_info: GlobalInfo

    def apply(self, reader: Reader, data: SiteData, name: str, threads: int = 1) -> Tensor:
        """Call ``reader`` on ``data`` batch by batch, in evaluation mode, and concatenate its results: [N, ...].

        ``name`` is the key of the stream of random fills. A modality whose extractor no site has trained gives no
        token, since that would only add noise. ``threads`` batches run at the same time, with identical results.
        """
        config = self.recovery.config
        trained = {
            group: module
            for group, module in self.groups.items()
            if not group.startswith(EXTRACTORS) or self.global_info.trained.get(group, 0) > 0
        }
        model = TaskModel(trained, self.recovery.spec)
        for module in self.groups.values():
            set_frozen(module, frozen=True)

        def read(samples: Tensor) -> Tensor:
            with torch.inference_mode():  # a setting of each thread
                batch = data.batch(samples)
                return reader(model, batch, self.recovery.recover(batch, self.groups, self.global_info))

        batches = list(chunks(len(data), data.device, config.evaluate.batch))  # no samples: one empty batch
        workers = min(threads, len(batches))
        with seeding.scope(config.seed, "evaluate", name):
            if workers <= 1:
                return torch.cat([read(samples) for samples in batches])
            # PyTorch releases Python's global lock; each worker gets as many PyTorch threads as this one
            own = (torch.get_num_threads(),)
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=own) as pool:
                return torch.cat(list(pool.map(read, batches)))


def predict(
    recovery: Recovery, groups: Groups, global_info: GlobalInfo, data: SiteData, name: str, *, threads: int = 1
) -> Predictions:
    """Predict the classes of all samples of ``data`` with the task model; see ``GlobalModel.apply``."""
    return Predictions(GlobalModel(recovery, groups, global_info).apply(TaskModel.logits, data, name, threads))


@dataclass(frozen=True)
class EvaluationContext:
    """Everything that a site's evaluation works on: the global ``groups`` and the samples ``data`` to be scored.

    ``name`` is the key of the stream of random fills. ``training`` opens the site's training samples, to which a
    strategy may fit its own model; there may be none.
    """

    recovery: Recovery
    groups: Groups
    global_info: GlobalInfo
    data: SiteData
    name: str
    training: Callable[[], SiteData]

    def predictions(self) -> Predictions:
        """The predictions of the task model."""
        return predict(self.recovery, self.groups, self.global_info, self.data, self.name)

    def apply(self, reader: Reader, data: SiteData, name: str) -> Tensor:
        """Call ``reader`` on all of ``data``, [N, ...]; see ``GlobalModel.apply``."""
        return GlobalModel(self.recovery, self.groups, self.global_info).apply(reader, data, name)

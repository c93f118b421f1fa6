"""Decision fusion at the site for ``mmfedmc``: modalities learn on their own, a forest decides over what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.local.by_modality import Forest, Views, class_probabilities
from fedrecon_core.local.evaluate import Predictions, Scoring
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.recovery.stage import Workshop
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.target import target_of
from fedrecon_core.types import Batch

if TYPE_CHECKING:
    from strategies.mmfedmc import MmFedMCParams


class LocalFusion(LocalHook):
    """A modality's model is its extractor with the head reading its tokens alone.

    The paper trains these models alone. Here their mean loss is added to the task model's, so that the head keeps
    reading several modalities as well: it is what Shapley values are taken of, and what a saved model predicts with.

    The forest is fitted when a model is scored, to the site's training samples under the received model, as the
    paper's sites do after a round. So nothing is kept of it, the model of the best round is tested with its own forest,
    and a site that was never drawn has one, too. It is part of no saved model. A site without training samples predicts
    with the task model.
    """

    params: MmFedMCParams
    _workshop: Workshop

    def loss(self, model: TaskModel, batch: Batch) -> Tensor | float:
        """The mean over the modalities present of the loss of each on its own, on real rows alone."""
        target, views, losses = target_of(self._workshop.data.spec), Views.of(model, batch), []
        for name in model.extractors:
            seen = batch.inputs[name].index
            if len(seen):
                losses.append(target.loss(views.logits([name])[seen], batch.labels[seen]))
        return torch.stack(losses).mean() if losses else 0.0

    def predictions(self, scoring: Scoring) -> Predictions:
        """Those of the forest."""
        training = scoring.training()
        if not len(training):
            return scoring.predictions()
        forest = Forest(self.params.trees, seeding.derive(scoring.recovery.config.seed, "forest") % 2**32)
        known = scoring.read(class_probabilities, training, f"training/{scoring.name}")
        asked = scoring.read(class_probabilities, scoring.data, scoring.name)
        return Predictions(forest.logits(known, training.labels, asked))

"""What decides over a sample in ``mmfedmc``: the task model, or decisions that are fused at the site, where modalities
learn on their own and a forest decides over what they say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.local.by_modality import Forest, ModalityViews, class_probabilities
from fedrecon_core.local.evaluate import EvaluationContext, Predictions
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.target import Target
from fedrecon_core.types import Batch


class TaskFusion:
    """The task model alone: nothing is added to its loss, and its predictions count."""

    def loss(self, model: TaskModel, batch: Batch, target: Target) -> Tensor | float:
        """What is added to the loss of the task model on ``batch``, whose labels are those of ``target``."""
        return 0.0

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """What is scored where the sites evaluate."""
        return scoring.predictions()


@dataclass(frozen=True)
class LocalFusion(TaskFusion):
    """A modality's model is its extractor with the head reading its tokens alone; a forest of ``trees`` trees decides.

    The paper trains these models alone. Here their mean loss is added to the task model's, so that the head keeps
    reading several modalities as well: it is what Shapley values are taken of, and what a saved model predicts with.

    The forest is fitted when a model is scored, to the site's training samples under the received model, as the
    paper's sites do after a round. So nothing is kept of it, the model of the best round is tested with its own forest,
    and a site that was never drawn has one, too. It is part of no saved model. A site without training samples predicts
    with the task model.
    """

    trees: int

    def loss(self, model: TaskModel, batch: Batch, target: Target) -> Tensor | float:
        """The mean over the modalities present of the loss of each on its own, on real rows alone."""
        views, losses = ModalityViews.of(model, batch), []
        for name in model.extractors:
            seen = batch.inputs[name].index
            if len(seen):
                losses.append(target.loss(views.logits([name])[seen], batch.labels[seen]))
        return torch.stack(losses).mean() if losses else 0.0

    def predictions(self, scoring: EvaluationContext) -> Predictions:
        """Those of the forest."""
        training = scoring.training()
        if not len(training):
            return super().predictions(scoring)
        forest = Forest(self.trees, seeding.derive(scoring.recovery.config.seed, "forest") % 2**32)
        known = scoring.apply(class_probabilities, training, f"training/{scoring.name}")
        asked = scoring.apply(class_probabilities, scoring.data, scoring.name)
        return Predictions(forest.logits(known, training.labels, asked))

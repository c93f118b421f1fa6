"""Cross-modal coherence: whether a reconstruction keeps the class of its source (Shi et al. 2019, section 4.2).

An independent classifier per modality, trained on real complete data, classifies the reconstructions. Coherence is its
accuracy against the source's label, averaged over all ordered pairs of different modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon_core import seeding
from fedrecon_core.data.dataset import Dataset

Translate = Callable[[Tensor, tuple[str, str]], Tensor | None]
"""(values [R, *shape] of the source, (source, target)) -> the target's values, or None if no path is trained."""

EPOCHS, BATCH, LEARNING_RATE = 8, 64, 2e-3


@dataclass(frozen=True)
class Coherence:
    """``real[m]``: the classifier's accuracy on real test data; ``pairs[m, n]``: on n reconstructed from m (m = n:
    self-reconstruction). A pair without a trained path counts as 0."""

    real: dict[str, float]
    pairs: dict[tuple[str, str], float]
    untrained: tuple[tuple[str, str], ...]

    @property
    def own(self) -> float:
        """Mean over self-reconstructions."""
        return _mean([score for (source, target), score in self.pairs.items() if source == target])

    @property
    def cross(self) -> float:
        """Mean over source != target: the coherence of the literature."""
        return _mean([score for (source, target), score in self.pairs.items() if source != target])

    @property
    def classifier(self) -> float:
        """Mean accuracy of the classifiers on real data, an upper bound."""
        return _mean(list(self.real.values()))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def judge_network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A small classifier of one modality: convolutional for images, a perceptron otherwise."""
    if len(shape) != 3:
        size = int(torch.tensor(shape).prod())
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, classes))
    area = -(-shape[1] // 4) * -(-shape[2] // 4)
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * area, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def train_judge(dataset: Dataset, modality: str) -> nn.Module:
    """The classifier of ``modality``, trained on all training samples that have it; always from the same stream."""
    values, labels = _split(dataset, modality, 0)
    with seeding.scope(0, "coherence", modality):
        judge = judge_network(dataset.spec[modality].shape, len(dataset.spec.classes))
        optimizer = torch.optim.Adam(judge.parameters(), lr=LEARNING_RATE)
        for _ in range(EPOCHS):
            for index in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(judge(values[index]), labels[index]).backward()
                optimizer.step()
    return judge.eval()


def _split(dataset: Dataset, modality: str, split: int) -> tuple[Tensor, Tensor]:
    members = dataset.members(split)
    members = members[dataset.rows[modality][members] >= 0]
    values = dataset.arrays[modality][dataset.rows[modality][members]]
    return torch.from_numpy(values), torch.from_numpy(dataset.labels[members])


@torch.no_grad()
def coherence(dataset: Dataset, translate: Translate, judges: Mapping[str, nn.Module], split: int = 2) -> Coherence:
    """Score ``translate`` on all samples of ``split`` (default: test) with ``judges``, a classifier per modality."""
    names = dataset.spec.names
    real, pairs, untrained = {}, {}, []
    for source in names:
        values, labels = _split(dataset, source, split)
        real[source] = _accuracy(judges[source](values), labels)
        for target in names:
            made = translate(values, (source, target))
            if made is None:
                untrained.append((source, target))
            pairs[source, target] = 0.0 if made is None else _accuracy(judges[target](made), labels)
    return Coherence(real, pairs, tuple(untrained))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())

"""The toy with several labels per sample. Importing this module registers the data set ``toy_multilabel``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedrecon_core.data.dataset import Dataset, DatasetLoader, IntArray
from fedrecon_core.registry import DATASETS
from fedrecon_core.types import DatasetSpec
from tests.helpers.toy import ToyParams, tiny_dataset, toy_settings, toy_spec

MULTILABEL_CLASSES = ("bright", "loud", "rare")
SHARES = (0.5, 0.3, 0.12)


def multilabel_spec(scale: str = "none") -> DatasetSpec:
    """The toy's modalities; any of three classes."""
    changes = {"name": "toy_multilabel", "classes": MULTILABEL_CLASSES, "target": "multilabel"}
    return toy_spec(scale).model_copy(update=changes)


def tiny_multilabel(train: int = 48, held_out: int = 24, *, scale: str = "none") -> Dataset:
    """``tiny_dataset`` with labels of its own: each class adds to the values of every modality. In each split the first
    sample is of all classes and the second of none."""
    plain = tiny_dataset(train, held_out, scale=scale)
    labels, offsets = _labels(plain), plain.offsets["steps"]
    noise, draw = np.random.default_rng(7), np.random.default_rng(8)
    count = len(labels)
    arrays = {
        "picture": np.clip(
            np.repeat(labels, 12, axis=1).reshape(count, 1, 6, 6) + 0.2 * noise.random((count, 1, 6, 6)), 0, 1
        ),
        "features": 3 * labels @ draw.standard_normal((len(MULTILABEL_CLASSES), 5)) + noise.standard_normal((count, 5)),
        "steps": np.repeat(2 * labels, np.diff(offsets), axis=0) + 0.3 * noise.standard_normal((offsets[-1], 3)),
    }
    return replace(
        plain,
        spec=multilabel_spec(scale),
        labels=labels,
        arrays={name: array.astype(np.float32) for name, array in arrays.items()},
    )


def _labels(plain: Dataset) -> IntArray:
    labels = (np.random.default_rng(6).random((len(plain.ids), len(MULTILABEL_CLASSES))) < SHARES).astype(np.int64)
    for split in range(3):
        first, second = plain.members(split)[:2]
        labels[first], labels[second] = 1, 0
    return labels


@DATASETS.register("toy_multilabel")
class ToyMultilabel(DatasetLoader):
    """``tiny_multilabel``."""

    Params = ToyParams

    def load(self, params: Any, root: Path | None, seed: int) -> Dataset:
        keys = cast(ToyParams, params)
        return tiny_multilabel(keys.train, keys.held_out, scale=keys.scale)


def multilabel_settings(recovery: Any = "mask", strategy: Any = "fedavg", **sections: Any) -> dict[str, Any]:
    """``toy_settings`` of a run on ``toy_multilabel`` that chooses the best round by ``macro_auroc``."""
    evaluate = {"select": "macro_auroc", **sections.pop("evaluate", {})}
    data = {"name": "toy_multilabel", **sections.pop("data", {})}
    return toy_settings(recovery, strategy, data=data, evaluate=evaluate, **sections)

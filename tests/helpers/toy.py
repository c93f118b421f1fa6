"""A toy data set for tests: three modalities, three classes, and configs that train in milliseconds.

Importing this module registers the data set ``toy``, so that a config may name it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fedrecon_core.config import DataParams, RunConfig, parse
from fedrecon_core.data.dataset import BoolArray, Dataset, DatasetLoader
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.inference import save_model
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, RECOVERIES, discover
from fedrecon_core.state import read_group
from fedrecon_core.types import DatasetSpec, Likelihood, ModalitySpec

discover((*CORE_PACKAGES, "strategies"))

NAMES = ("picture", "features", "steps")
CLASSES = ("low", "middle", "high")
LONGEST = 8
CPU = torch.device("cpu")


def toy_spec(scale: str = "none") -> DatasetSpec:
    """An image 1x6x6 in [0, 1], a vector of 5 (z-normalised with ``scale: standard``), sequences of up to 8 x 3."""
    return DatasetSpec(
        name="toy",
        classes=CLASSES,
        modalities=(
            ModalitySpec(name="picture", kind="image", shape=(1, 6, 6), likelihood=Likelihood(std=0.5)),
            ModalitySpec(
                name="features", kind="vector", shape=(5,), likelihood=Likelihood(name="laplace", std=0.5), scale=scale
            ),
            ModalitySpec(name="steps", kind="sequence", shape=(LONGEST, 3)),
        ),
    )


def tiny_dataset(train: int = 48, held_out: int = 24, *, seed: int = 0, scale: str = "none") -> Dataset:
    """``train`` training samples, then ``held_out`` for validation and as many for test; classes in turn; complete.

    Each modality shows the class in its mean. Sequences have lengths 1 to 8. Four samples in a row form a group.
    """
    count = train + 2 * held_out
    draw = np.random.default_rng([seed, count])
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    level = (labels / 2).astype(np.float32)
    lengths = draw.integers(1, LONGEST + 1, size=count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    steps = np.repeat(level, lengths)[:, None] + 0.3 * draw.standard_normal((int(offsets[-1]), 3))
    arrays = {
        "picture": np.clip(level[:, None, None, None] + 0.2 * draw.standard_normal((count, 1, 6, 6)), 0, 1),
        "features": 3 * level[:, None] + draw.standard_normal((count, 5)),
        "steps": steps,
    }
    return Dataset(
        spec=toy_spec(scale),
        labels=labels,
        ids=np.arange(count, dtype=np.int64) + 1000,
        split=np.repeat(np.arange(3), [train, held_out, held_out]).astype(np.int64),
        cluster_ids=np.arange(count, dtype=np.int64) // 4,
        arrays={name: array.astype(np.float32) for name, array in arrays.items()},
        rows={name: np.arange(count, dtype=np.int64) for name in NAMES},
        offsets={"steps": offsets},
    )


class ToyParams(DataParams):
    """``train`` and ``held_out``: samples; ``scale: standard`` z-normalises ``features``."""

    train: int = 48
    held_out: int = 24
    scale: str = "none"


@DATASETS.register("toy")
class Toy(DatasetLoader):
    """``tiny_dataset`` under the name ``toy``."""

    Params = ToyParams

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        keys = cast(ToyParams, params)
        return tiny_dataset(keys.train, keys.held_out, scale=keys.scale)


def toy_settings(recovery: Any = "fedrecon", strategy: Any = "fedavg", **sections: Any) -> dict[str, Any]:
    """The raw config of a run on ``toy``: 4 sites, 2 rounds, small networks, FedRecon without warm-up.

    ``sections`` replace top-level keys (``missing={...}``, ``sites={...}``, ``local={...}``, ...).
    """
    if recovery == "fedrecon":
        recovery = {"name": "fedrecon"}
    if isinstance(recovery, dict) and recovery.get("name") == "fedrecon":
        mapping = {"hidden": [8], **recovery.get("mapping", {})}
        recovery = {"latent": 4, "warmup_rounds": 0, **recovery, "mapping": mapping}
    small = {"epochs": 1, "batch": 16}
    return {
        "name": "toy",
        "seed": 0,
        "rounds": 2,
        "device": "cpu",
        "data": {"name": "toy"},
        "sites": {"count": 4},
        "modalities": {
            "image": {"extractor": [4]},
            "sequence": {"generator": [4], "extractor": [4]},
            "vector": {"generator": [8], "extractor": [8]},
        },
        "task": {"width": 8, "hidden": 8, "dropout": 0.0, "fusion": {"name": "attention", "heads": 2, "hidden": 8}},
        "recovery": recovery,
        "strategy": strategy,
        "local": {"generator": dict(small), "mapping": dict(small), "task": dict(small)},
        **sections,
    }


def toy_config(recovery: Any = "fedrecon", strategy: Any = "fedavg", **sections: Any) -> RunConfig:
    """``toy_settings``, checked."""
    return parse(toy_settings(recovery, strategy, **sections))


def toy_recovery(name: Any = "fedrecon", spec: DatasetSpec | None = None, **sections: Any) -> Any:
    """The recovery of ``toy_config`` over ``spec`` (default: the toy's)."""
    config = toy_config(name, **sections)
    cls: Any = RECOVERIES.get(config.recovery.name)
    return cls(config, toy_spec(getattr(config.data, "scale", "none")) if spec is None else spec)


def everything(count: int) -> BoolArray:
    """The presence mask of ``count`` complete samples."""
    return np.ones((count, len(NAMES)), dtype=np.bool_)


def toy_site(dataset: Dataset | None = None, present: BoolArray | None = None, *, sealed: bool = False) -> SiteData:
    """A site with all training samples of ``dataset`` (default: ``tiny_dataset()``) under ``present`` (all)."""
    dataset = tiny_dataset() if dataset is None else dataset
    samples = dataset.members(0)
    present = everything(len(samples)) if present is None else present
    return open_site(dataset, samples, present, device=CPU, sealed=sealed)


def save_toy_model(folder: Path) -> Path:
    """A model of FedRecon whose generators and mappings count as trained, so that absent values are filled."""
    recovery = toy_recovery(strategy={"name": "fedopt", "momentum": 0.3}, data={"name": "toy", "train": 24})
    model = {name: read_group(module) for name, module in recovery.build().items()}
    save_model(folder, model, recovery, GlobalInfo(3, dict.fromkeys(model, 10), {}, {}))
    return folder


class MemoryStore:
    """Storage of a site's state in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, dict[str, torch.Tensor]]] = {}

    def load(self, name: str) -> dict[str, dict[str, torch.Tensor]]:
        return self.kept.get(name, {})

    load_accepted = load  # as if the server accepted every reply

    def save(self, name: str, groups: Any) -> None:
        self.kept[name] = {group: dict(state) for group, state in groups.items()}

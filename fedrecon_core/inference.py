"""The trained model as a folder of its own: safetensors and YAML, loadable without the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrecon_core.config import ModelConfig, parse_model
from fedrecon_core.data.site import SiteData
from fedrecon_core.data.statistics import Statistics, after_scaling, scaled
from fedrecon_core.errors import DataError
from fedrecon_core.local.evaluate import predict
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, discover
from fedrecon_core.state import Groups, State, write_group
from fedrecon_core.types import DatasetSpec

TENSORS, DESCRIPTION = "model.safetensors", "model.yaml"


@dataclass(frozen=True)
class TrainedModel:
    """Global groups with the knowledge that belongs to them."""

    recovery: Recovery
    groups: Groups
    knowledge: Knowledge

    def logits(self, data: SiteData) -> Tensor:
        """float32 [N, C] for every sample of ``data``, absent modalities recovered as in evaluation."""
        seen = after_scaling(data.spec.modalities, self.knowledge.statistics)
        knowledge = Knowledge(self.knowledge.round, self.knowledge.trained, self.knowledge.quality, seen)
        return predict(
            self.recovery, self.groups, knowledge, scaled(data, self.knowledge.statistics), "inference"
        ).logits


def save_model(folder: Path, model: Mapping[str, State], recovery: Recovery, knowledge: Knowledge) -> str:
    """Write ``model.safetensors`` and ``model.yaml`` into ``folder`` and return the SHA-256 over both files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"{g}/{n}": t.contiguous() for g, state in model.items() for n, t in state.items()}, folder / TENSORS)
    description = {
        "spec": recovery.spec.model_dump(mode="json"),
        "config": recovery.config.model_dump(mode="json", include=set(ModelConfig.model_fields)),
        "round": knowledge.round,
        "trained": dict(sorted(knowledge.trained.items())),
        "quality": dict(sorted(knowledge.quality.items())),
        "statistics": {
            name: {"mean": s.mean.tolist(), "std": s.std.tolist()} for name, s in sorted(knowledge.statistics.items())
        },
    }
    (folder / DESCRIPTION).write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    return folder_sha256(folder)


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the bytes of the two files, in that order."""
    digest = hashlib.sha256()
    for name in (TENSORS, DESCRIPTION):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def load_model(folder: Path) -> TrainedModel:
    """Read what ``save_model`` wrote; ``DataError`` if it is not there. Needs the core alone; whoever registered a
    method of their own elsewhere imports it first."""
    discover(CORE_PACKAGES)
    try:
        described: dict[str, Any] = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no trained model: {error.filename} is missing") from None
    config = parse_model(described["config"])
    cls: Any = RECOVERIES.get(config.recovery.name)
    recovery: Recovery = cls(config, DatasetSpec.model_validate(described["spec"]))
    groups = recovery.build()
    for name, module in groups.items():
        prefix = f"{name}/"
        write_group(module, {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})
    return TrainedModel(recovery, groups, _knowledge(described))


def _knowledge(described: dict[str, Any]) -> Knowledge:
    statistics = {
        name: Statistics(*(torch.tensor(values[part], dtype=torch.float64) for part in ("mean", "std")))
        for name, values in described["statistics"].items()
    }
    return Knowledge(described["round"], described["trained"], described["quality"], statistics)

"""The trained model as a folder of its own: safetensors and YAML, loadable without the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrecon_core.config import ModelConfig, parse_model
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import Statistics, scaled
from fedrecon_core.errors import DataError, RunError
from fedrecon_core.files import DISK_ERRORS, reason, replace_file, replace_text, sync
from fedrecon_core.local.evaluate import predict
from fedrecon_core.recovery.base import Recovery, recovery_for
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import CORE_PACKAGES, discover
from fedrecon_core.state import Groups, State, flatten_groups, unflatten_groups, write_group
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec, ModalitySpec

TENSORS, DESCRIPTION = "model.safetensors", "model.yaml"
SLACK = 1e-3
"""How far a pixel may lie outside [0, 1]: a resized image overshoots by rounding."""


@dataclass(frozen=True)
class TrainedModel:
    """Global groups with the global_info that belongs to them."""

    recovery: Recovery
    groups: Groups
    global_info: GlobalInfo

    def predict(self, inputs: Mapping[str, NDArray[np.floating]]) -> Tensor:
        """Class probabilities float32 [N, C] from arrays alone: modality -> [N, *shape], for any of the modalities.

        A multilabel model has one for each class on its own. What is left out is recovered. Floating numbers of any
        width are read as float32; images are in [0, 1], unless the federation standardised them (``scale: standard``).
        Raises ``DataError`` for an unknown modality, another shape, unequal lengths, whole numbers, NaN or infinity,
        and pixels outside [0, 1].
        """
        arrays = self._checked(inputs)
        count = len(next(iter(arrays.values())))
        rows = {m: np.arange(count) if m in arrays else np.full(count, -1) for m in self.recovery.spec.names}
        empty = {m.name: np.zeros((0, *m.shape), dtype=np.float32) for m in self.recovery.spec.modalities}
        nothing = np.zeros(count, dtype=np.int64)
        dataset = Dataset(self.recovery.spec, nothing, np.arange(count), nothing, nothing, {**empty, **arrays}, rows)
        data = open_site(dataset, np.arange(count), dataset.exists(), device=torch.device("cpu"))
        return target_of(self.recovery.spec).probabilities(self.logits(data))

    def _checked(self, inputs: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float32]]:
        """``inputs`` as float32."""
        spec = self.recovery.spec
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, values in inputs.items():
            if name not in spec.names:
                raise DataError(f"unknown modality '{name}'; known: {', '.join(spec.names)}")
            arrays[name] = _as_float32(spec[name], values)
            _refuse_values(spec[name], arrays[name])
        sizes = {name: len(values) for name, values in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise DataError(f"expected some modalities, all of as many samples, found {sizes}")
        return arrays

    def logits(self, data: SiteData) -> Tensor:
        """float32 [N, C] for every sample of ``data``, absent modalities recovered as in evaluation."""
        global_info = self.global_info.after_scaling(data.spec)
        return predict(
            self.recovery, self.groups, global_info, scaled(data, self.global_info.statistics), "inference"
        ).logits


def _as_float32(modality: ModalitySpec, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """``values`` [N, *shape] in the model's own type, uncopied where they are; ``DataError`` for what is no such
    array."""
    if not isinstance(values, np.ndarray):
        raise DataError(f"{modality.name}: expected a NumPy array of float32, found {type(values).__name__}")
    if not np.issubdtype(values.dtype, np.floating):
        pixels = "; bytes of an image are divided by 255 first" if _is_in_unit_range(modality) else ""
        raise DataError(f"{modality.name}: expected floating numbers (float32), found {values.dtype}{pixels}")
    if values.ndim == 0 or values.shape[1:] != modality.shape:
        raise DataError(f"{modality.name}: expected an array of shape (N, *{modality.shape}), found {values.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is refused
        return values.astype(np.float32, copy=False)


def _refuse_values(modality: ModalitySpec, values: NDArray[np.float32]) -> None:
    if not values.size:
        return
    least, most = float(values.min()), float(values.max())  # either is NaN where a value is
    if not (np.isfinite(least) and np.isfinite(most)):
        bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        told = "leave a modality that is missing out: it is recovered"
        raise DataError(f"{modality.name}: expected finite numbers, found NaN or infinity in sample {bad}; {told}")
    if _is_in_unit_range(modality) and (least < -SLACK or most > 1 + SLACK):
        told = "scale them as the images of training, values 0 to 255 by dividing by 255"
        raise DataError(f"{modality.name}: expected pixels in [0, 1], found {least:.6g} to {most:.6g}; {told}")


def _is_in_unit_range(modality: ModalitySpec) -> bool:
    """Whether the modality's values are in [0, 1]: images are, by the rule that encoders hold to (``Spread``), but for
    those that the federation standardises."""
    return modality.kind == "image" and modality.scale == "none"


def save_model(folder: Path, model: Mapping[str, State], recovery: Recovery, global_info: GlobalInfo) -> str:
    """Write ``model.safetensors`` and ``model.yaml`` into ``folder`` and return the SHA-256 over both files.

    On return both are on the disk, each whole. A full disk or an unwritable folder is a ``RunError``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / TENSORS, lambda partial: save_file(flatten_groups(model), partial))
        replace_text(folder / DESCRIPTION, yaml.safe_dump(_described(recovery, global_info), sort_keys=False))
        sync(folder.parent)
    except DISK_ERRORS as error:
        raise RunError(
            f"cannot write the model {folder}: {reason(error)}; make room or mend its rights, then resume"
        ) from None
    return folder_sha256(folder)


def _described(recovery: Recovery, global_info: GlobalInfo) -> dict[str, Any]:
    return {
        "spec": recovery.spec.model_dump(mode="json"),
        "config": recovery.config.model_dump(mode="json", include=set(ModelConfig.model_fields)),
        "round": global_info.round,
        "trained": dict(sorted(global_info.trained.items())),
        "quality": dict(sorted(global_info.quality.items())),
        "statistics": {
            name: {"mean": s.mean.tolist(), "std": s.std.tolist()} for name, s in sorted(global_info.statistics.items())
        },
    }


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the bytes of the two files, in that order."""
    digest = hashlib.sha256()
    for name in (TENSORS, DESCRIPTION):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def load_model(folder: str | Path) -> TrainedModel:
    """Read what ``save_model`` wrote, from the model's folder or its run directory; ``DataError`` if it is not there.
    Needs the core alone; whoever registered a method of their own elsewhere imports it first."""
    discover(CORE_PACKAGES)
    folder = Path(folder)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    try:
        described: dict[str, Any] = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
        states = unflatten_groups(load_file(folder / TENSORS))
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no trained model: {error.filename} is missing") from None
    config = parse_model(described["config"])
    recovery = recovery_for(config, DatasetSpec.model_validate(described["spec"]))
    groups = recovery.build()
    for name, module in groups.items():
        write_group(module, states.get(name, {}))
    return TrainedModel(recovery, groups, _knowledge(described))


def _knowledge(described: dict[str, Any]) -> GlobalInfo:
    statistics = {
        name: Statistics(*(torch.tensor(values[part], dtype=torch.float64) for part in ("mean", "std")))
        for name, values in described["statistics"].items()
    }
    return GlobalInfo(described["round"], described["trained"], described["quality"], statistics)

"""The trained model as a standalone folder of safetensors and YAML files, loadable without the run."""

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
    """Global groups of a recovery, with the information that belongs to them."""

    recovery: Recovery
    groups: Groups
    global_info: GlobalInfo

    def predict(self, inputs: Mapping[str, NDArray[np.floating]]) -> Tensor:
        """Class probabilities float32 [N, C] from arrays alone: modality -> [N, *shape], for any of the modalities.

        A multilabel model returns an independent probability for each class. Missing modalities are recovered. Floats
        of any width are converted to float32; images are in [0, 1], unless the federation standardized them
        (``scale: standard``). Raises ``DataError`` for an unknown modality, another shape, unequal lengths, integers,
        NaN or infinity, and pixels outside [0, 1].
        """
        spec = self.recovery.spec
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, values in inputs.items():
            if name not in spec.names:
                raise DataError(f"unknown modality '{name}'; known: {', '.join(spec.names)}")
            arrays[name] = _checked_array(spec[name], values)
        sizes = {name: len(values) for name, values in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise DataError(f"expected at least one modality, with the same number of samples in each, found {sizes}")
        count = len(next(iter(arrays.values())))
        rows = {m: np.arange(count) if m in arrays else np.full(count, -1) for m in spec.names}
        empty = {m.name: np.zeros((0, *m.shape), dtype=np.float32) for m in spec.modalities}
        nothing = np.zeros(count, dtype=np.int64)
        dataset = Dataset(spec, nothing, np.arange(count), nothing, nothing, {**empty, **arrays}, rows)
        data = open_site(dataset, np.arange(count), dataset.exists(), device=torch.device("cpu"))
        return target_of(spec).probabilities(self.logits(data))

    def logits(self, data: SiteData) -> Tensor:
        """float32 [N, C] for every sample of ``data``, absent modalities recovered as in evaluation."""
        global_info = self.global_info.after_scaling(data.spec)
        return predict(
            self.recovery, self.groups, global_info, scaled(data, self.global_info.statistics), "inference"
        ).logits


def _checked_array(modality: ModalitySpec, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """``values`` [N, *shape] as float32, not copied if they have this type; invalid ones are a ``DataError``."""
    name, pixels = modality.name, modality.kind == "image" and modality.scale == "none"
    if not isinstance(values, np.ndarray):
        raise DataError(f"{name}: expected a NumPy array of float32, found {type(values).__name__}")
    if not np.issubdtype(values.dtype, np.floating):
        advice = "; divide the bytes of an image by 255 first" if pixels else ""
        raise DataError(f"{name}: expected floating-point numbers (float32), found {values.dtype}{advice}")
    if values.ndim == 0 or values.shape[1:] != modality.shape:
        sizes = ", ".join(map(str, ("N", *modality.shape)))
        raise DataError(f"{name}: expected an array of shape ({sizes}), found {values.shape}")
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinity, which is refused
        array = values.astype(np.float32, copy=False)
    if not array.size:
        return array
    least, most = float(array.min()), float(array.max())  # both are NaN if any value is
    if not (np.isfinite(least) and np.isfinite(most)):
        bad = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        advice = "leave out a missing modality: it is recovered"
        raise DataError(f"{name}: expected finite numbers, found NaN or infinity in sample {bad}; {advice}")
    if pixels and (least < -SLACK or most > 1 + SLACK):
        advice = "scale them like the training images (divide values from 0 to 255 by 255)"
        raise DataError(f"{name}: expected pixels in [0, 1], found {least:.6g} to {most:.6g}; {advice}")
    return array


def save_model(folder: Path, model: Mapping[str, State], recovery: Recovery, global_info: GlobalInfo) -> str:
    """Write ``model.safetensors`` and ``model.yaml`` into ``folder`` and return the SHA-256 over both files.

    On return both are complete on the disk. A full disk or an unwritable folder is a ``RunError``.
    """
    statistics = {
        name: {"mean": s.mean.tolist(), "std": s.std.tolist()} for name, s in sorted(global_info.statistics.items())
    }
    description = {
        "spec": recovery.spec.model_dump(mode="json"),
        "config": recovery.config.model_dump(mode="json", include=set(ModelConfig.model_fields)),
        "round": global_info.round,
        "trained": dict(sorted(global_info.trained.items())),
        "quality": dict(sorted(global_info.quality.items())),
        "statistics": statistics,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / TENSORS, lambda partial: save_file(flatten_groups(model), partial))
        replace_text(folder / DESCRIPTION, yaml.safe_dump(description, sort_keys=False))
        sync(folder.parent)
    except DISK_ERRORS as error:
        raise RunError(
            f"cannot write the model {folder}: {reason(error)}; free disk space or correct its permissions, then resume"
        ) from None
    return folder_sha256(folder)


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the bytes of the two files, in that order."""
    digest = hashlib.sha256()
    for name in (TENSORS, DESCRIPTION):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def load_model(folder: str | Path) -> TrainedModel:
    """Load the output of ``save_model`` from the model's folder or its run directory; ``DataError`` if it is missing.

    This needs only the core. Import methods that are registered elsewhere before.
    """
    discover(CORE_PACKAGES)
    folder = Path(folder)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    try:
        description: dict[str, Any] = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
        states = unflatten_groups(load_file(folder / TENSORS))
    except FileNotFoundError as error:
        raise DataError(f"{folder} contains no trained model: {error.filename} is missing") from None
    config = parse_model(description["config"])
    recovery = recovery_for(config, DatasetSpec.model_validate(description["spec"]))
    groups = recovery.build()
    for name, module in groups.items():
        write_group(module, states.get(name, {}))
    statistics = {
        name: Statistics(*(torch.tensor(values[part], dtype=torch.float64) for part in ("mean", "std")))
        for name, values in description["statistics"].items()
    }
    global_info = GlobalInfo(description["round"], description["trained"], description["quality"], statistics)
    return TrainedModel(recovery, groups, global_info)

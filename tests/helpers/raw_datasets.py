"""A raw_data of made-up rows: a vector and sequences of different lengths, each missing here and there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.types import DatasetSpec, ModalitySpec

SPEC = DatasetSpec(
    name="made_up",
    classes=("no", "yes"),
    modalities=(
        ModalitySpec(name="numbers", kind="vector", shape=(3,)),
        ModalitySpec(name="steps", kind="sequence", shape=(6, 2)),
    ),
)


def made_up(count: int = 2500, seed: int = 0) -> RawDataset:
    """Made-up samples; every number of a row identifies its sample. ``seed`` decides what is missing."""
    present = np.random.default_rng(seed).random((count, 2)) < 0.8
    samples = Samples(
        ids=np.arange(count) + 7,
        labels=np.arange(count) % 2,
        split=np.arange(count) % 3,
        cluster_ids=np.arange(count),
        present=present,
    )

    def numbers(chosen: np.ndarray) -> list[np.ndarray]:
        return [np.full(3, sample, dtype=np.float32) for sample in chosen]

    def steps(chosen: np.ndarray) -> list[np.ndarray]:
        return [np.full((1 + sample % 6, 2), sample, dtype=np.float32) for sample in chosen]

    return RawDataset(SPEC, samples, {"numbers": numbers, "steps": steps}, frozenset({"steps"}))


def reading(raw_data: RawDataset, modality: str, read: Callable) -> RawDataset:
    """The raw_data with another reader: ``read(chosen, rows)`` gets what the first one gives."""
    first = raw_data.rows[modality]
    return replace(raw_data, rows={**raw_data.rows, modality: lambda chosen: read(chosen, first(chosen))})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, but for the stamp, which holds times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "stamp.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

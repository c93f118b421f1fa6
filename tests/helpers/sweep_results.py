"""Directories of sweeps whose trials are complete, as `fedrecon sweep` writes them, without running any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, all_metrics
from fedrecon_core.registry import CORE_PACKAGES, discover

Labels = Mapping[str, str]
CLASSES = 3
ASKED = 60
"""Test samples, of ten groups."""


def asked() -> pd.DataFrame:
    """The same test samples for all."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"id": np.arange(ASKED), "group": np.arange(ASKED) % 10, "label": rng.integers(CLASSES, size=ASKED)}
    )


def right_with(chance: float, seed: int) -> NDArray[np.int64]:
    """Predictions that are right with ``chance``."""
    rng = np.random.default_rng(seed)
    other = rng.integers(CLASSES, size=ASKED)
    return np.where(rng.random(ASKED) < chance, asked()["label"], other)


def write_results(
    folder: Path,
    parameters: Mapping[str, list[str]],
    predictions: Callable[[Labels], NDArray[np.int64] | None],
    **table: Any,
) -> Path:
    """A sweep with ``parameters`` in ``folder``; ``predictions`` returns those of a trial, or None if it is missing.
    ``table`` is the section of that name."""
    trials = [dict(zip(parameters, values, strict=True)) for values in product(*parameters.values())]
    plain = [{"labels": labels, "folder": "-".join(labels.values())} for labels in trials]
    folder.mkdir(parents=True)
    raw = {"name": "toy", "axes": dict(parameters), "table": table or None, "cells": plain}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    for labels, trial in zip(trials, plain, strict=True):
        said = predictions(labels)
        if said is not None:
            write_trial(folder / "cells" / trial["folder"], said)
    return folder


def write_trial(path: Path, said: NDArray[np.int64]) -> None:
    """A complete run that gave these answers."""
    discover(CORE_PACKAGES)
    path.mkdir(parents=True)
    rows = asked().assign(predicted=said, has_a=True, has_b=True)
    rows.to_parquet(path / "predictions.parquet")
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for label, answer in zip(rows["label"], rows["predicted"], strict=True):
        confusion[label, answer] += 1
    scores = all_metrics(Counts(confusion))
    test = {"n": ASKED, "loss": 1 - scores["accuracy"], **scores}
    result = {"status": "completed", "rounds": 2, "test": test, "bytes_down": 6000, "bytes_up": 4000}
    (path / "result.json").write_text(json.dumps({**result, "train_seconds": 2.5, "wall_seconds": 4.0}))
    (path / "manifest.json").write_text(json.dumps(MANIFEST))
    (path / "config.yaml").write_text(yaml.safe_dump({"name": "toy", "evaluate": {"select": "uar"}}))


MANIFEST = {
    "parameters": {"task.head": 30, "task.extractor.a": 12},
    "modalities": ["a", "b"],
    "classes": ["one", "two", "three"],
    "target": "multiclass",
    "effective_missing": {"train": {"a": 0.5, "b": 0.3}, "test": {"a": 0.2, "b": 0.4}},
    "sites": [
        {"name": "site-0000", "samples": 30, "modalities": {"a": 1.0, "b": 0.0}, "classes": [10, 20, 0]},
        {"name": "site-0001", "samples": 40, "modalities": {"a": 0.5, "b": 1.0}, "classes": [5, 5, 30]},
    ],
}

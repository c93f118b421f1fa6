"""Small sweeps as files: definitions, trials in any state, and finished sweeps that were never run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, all_metrics
from fedrecon_core.registry import CORE_PACKAGES, discover
from server.runs.directory import RunDirectory
from server.sweep.store import SweepDirectory
from server.sweep.trials import Trial

BASE: dict[str, Any] = {
    "name": "small",
    "rounds": 2,
    "data": {"name": "polydigits", "modalities": 2, "tuples": 1},
    "sites": {"count": 2},
    "missing": {split: {"level": "sample", "rate": 0.3} for split in ("train", "validation", "test")},
    "recovery": "mask",
    "task": {"width": 8, "hidden": 8},
    "local": {"task": {"batch": 256}},
}


def write_sweep(folder: Path, config: dict[str, Any] | None = None, **keys: Any) -> Path:
    """``folder/sweep.yaml`` with ``keys`` (default axes: two recoveries, two seeds), and its base,
    ``config``, in the same folder. A key that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(config or BASE), encoding="utf-8")
    axes = {"recovery": ["mask", "zero"], "seed": [0, 1]}
    raw = {"name": "tiny", "base": "base.yaml", "axes": axes, **keys}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in raw.items() if value is not None}, sort_keys=False))
    return path


def end_run(run: RunDirectory, status: str = "completed", seconds: float = 4.0) -> None:
    """Write the result of a run that has ended."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("result.json", {"status": status, "error": "it broke", "wall_seconds": seconds})


def begin_round(directory: SweepDirectory, trial: Trial, code: str, **manifest: Any) -> RunDirectory:
    """Start a trial and leave it after one round that was computed by ``code``."""
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.write_json("manifest.json", {"code_sha256": code, **manifest})
    return run


# --- finished sweeps --------------------------------------------------------------------------------------------------

Labels = Mapping[str, str]
CLASSES = 3
ASKED = 60
"""Test samples, of ten groups."""


def asked() -> pd.DataFrame:
    """The test samples, the same for all trials."""
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
        predicted = predictions(labels)
        if predicted is not None:
            write_trial(folder / "cells" / trial["folder"], predicted)
    return folder


def write_trial(path: Path, predicted: NDArray[np.int64]) -> None:
    """Write a complete run with these predictions."""
    discover(CORE_PACKAGES)
    path.mkdir(parents=True)
    rows = asked().assign(predicted=predicted, has_a=True, has_b=True)
    rows.to_parquet(path / "predictions.parquet")
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
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

"""Small sweeps over polydigits as files, and run directories of their trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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
    ``config``, beside it. A key that is None is left out."""
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
    """Start a trial and leave it as after one round by ``code``."""
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.write_json("manifest.json", {"code_sha256": code, **manifest})
    return run

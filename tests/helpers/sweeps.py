"""Sweeps for tests: small ones over polydigits, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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

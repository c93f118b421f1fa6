"""A small .npz file with its description: a padded sequence, a vector that some samples lack, ten subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

SUBJECTS, EACH, CLASSES = 10, 6, 3


def root(base: Path) -> Path:
    """The description, beside its file, below ``base``."""
    return write(base, arrays(), description())


def write(base: Path, content: dict[str, np.ndarray], described: dict[str, Any]) -> Path:
    """``content`` and its description, whose path is returned."""
    base.mkdir(parents=True, exist_ok=True)
    np.savez(base / "toy.npz", **content)
    (base / "npz.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    return base / "npz.yaml"


def description() -> dict[str, Any]:
    """The content of the YAML file."""
    return {
        "name": "toy_npz",
        "file": "toy.npz",
        "modalities": [
            {"name": "motion", "kind": "sequence", "array": "motion", "lengths": "steps", "scale": "standard"},
            {"name": "blood", "kind": "vector", "array": "blood", "channels": [0, 2], "present": "has_blood"},
        ],
        "label": "label",
        "classes": "names",
        "group": "subject",
        "split": {"array": "part", "train": [0], "test": [2]},
        "validation": {"share": 0.25},
    }


def arrays() -> dict[str, np.ndarray]:
    """What the file holds; what is absent or padding is NaN."""
    draw, count = np.random.default_rng(0), SUBJECTS * EACH
    subject = np.repeat(np.arange(SUBJECTS) + 100, EACH)
    steps = draw.integers(3, 9, size=count)
    motion = draw.normal(size=(count, 8, 2)).astype(np.float16)
    motion[np.arange(8)[None, :] >= steps[:, None]] = np.nan
    has_blood = draw.random(count) < 0.7
    blood = draw.normal(size=(count, 3))
    blood[~has_blood] = np.nan
    return {
        "motion": motion,
        "steps": steps,
        "blood": blood,
        "has_blood": has_blood,
        "label": (np.arange(count) % CLASSES).astype(np.int16),
        "names": np.array(["rest", "walk", "run"]),
        "subject": subject,
        "part": np.where(subject < 108, 0, 2).astype(np.int8),
    }

"""Whole runs for tests, through the real apps and the in-process engine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import client.simulated
import tests.helpers.federation  # noqa: F401 - registers the data set `toy`
from fedrecon_core.data.dataset import forget_datasets
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import create_run, resume_run

CLOCK = "_seconds"


def settings(**changes: Any) -> dict[str, Any]:
    """A run of the toy data set with half of the modalities missing everywhere, as plain YAML values."""
    level = {"level": "sample", "rate": 0.5}
    return {
        "name": "toy",
        "rounds": 3,
        "data": {"name": "toy", "scale": "standard"},
        "sites": {"count": 3},
        "missing": {"train": level, "validation": level, "test": level},
        "recovery": {"name": "fedrecon", "latent": 4, "warmup_rounds": 1, "mapping": {"hidden": [8]}},
        "local": {"task": {"lr": 0.01}},
        **changes,
    }


def write(folder: Path, raw: dict[str, Any]) -> Path:
    """``raw`` as a config file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config-in.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def run(folder: Path, raw: dict[str, Any]) -> Path:
    """A whole run; returns its directory."""
    prepared = create_run(write(folder, raw), out=folder / "run")
    InProcess().run(Job.of(prepared))
    return prepared.directory.path


def resume(directory: Path) -> Path:
    """Go on with the run in ``directory``."""
    InProcess().run(Job.of(resume_run(directory), resume=True))
    return directory


def result(directory: Path) -> dict[str, Any]:
    """``result.json``."""
    found: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return found


def lines(directory: Path, name: str = "sites.jsonl") -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]


def without_clock(value: Any) -> Any:
    """``value`` without fields of wall-clock time."""
    if isinstance(value, dict):
        return {key: without_clock(item) for key, item in value.items() if not key.endswith(CLOCK)}
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def outcome(directory: Path, names: Iterable[str] = ("metrics.jsonl", "sites.jsonl")) -> dict[str, Any]:
    """All that a run says, in everything but wall-clock fields."""
    found: dict[str, Any] = {name: without_clock(lines(directory, name)) for name in names}
    return {**found, "result": without_clock(result(directory))}


def forget() -> None:
    """Let go of every data set and site that this process keeps open."""
    forget_datasets()
    client.simulated._open.clear()

"""Same config and seed, same bytes: one process, a few processes, Flower's simulation on Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import runs

CONFIG: dict[str, Any] = {
    "name": "agree",
    "rounds": 2,
    "data": {"name": "polydigits", "tuples": 1, "modalities": 3, "partition": {"name": "dirichlet", "alpha": 0.5}},
    "sites": {"count": 4},
    "missing": {
        "train": {"level": "sample", "rate": 0.4},
        "validation": {"level": "sample", "rate": 0.5},
        "test": {"level": "sample", "rate": 0.5},
    },
    "recovery": {"name": "fedrecon", "latent": 8, "warmup_rounds": 1, "mapping": {"hidden": [16]}},
    "strategy": {"name": "fedopt", "lr": 0.001},
}


def command(folder: Path, *arguments: str) -> Path:
    """Run ``fedrecon run`` as a person does; returns the run directory."""
    folder.mkdir(parents=True)
    config = folder / "config-in.yaml"
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    call = [sys.executable, "-m", "server.cli", "run", str(config), "--out", str(folder / "run"), *arguments]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with one process."""
    return command(tmp_path_factory.mktemp("reference") / "one")


@pytest.mark.parametrize(
    ("engine", "workers"),
    [
        ("inprocess", 2),
        pytest.param("ray", 1, marks=[pytest.mark.simulation, pytest.mark.slow]),
        pytest.param("ray", 2, marks=pytest.mark.simulation),
    ],
)
def test_every_engine_gives_the_same_bytes(reference: Path, engine: str, workers: int, tmp_path: Path) -> None:
    other = command(tmp_path / engine, "--engine", engine, "--set", f"engine.workers={workers}")
    assert runs.result(other)["parameters_sha256"] == runs.result(reference)["parameters_sha256"]
    assert runs.lines(other, "metrics.jsonl")[-1]["accuracy"] == runs.lines(reference, "metrics.jsonl")[-1]["accuracy"]
    ours, theirs = (runs.without_clock(runs.lines(path, "sites.jsonl")) for path in (other, reference))
    assert [line["bytes_up"] for line in ours] == [line["bytes_up"] for line in theirs]
    assert json.loads((other / "manifest.json").read_text(encoding="utf-8"))["engine"] == engine
    assert "Learning curves" in (other / "report.html").read_text(encoding="utf-8")

"""The share of two cores that a sweep of 40 small cells keeps at work, from the command's first moment to its last.

Run with ``pytest -m benchmark -s tests/benchmarks/test_sweep.py`` on a machine that does nothing else.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

CORES = 2
AIM = 0.95
PR_SET_CHILD_SUBREAPER = 36
BASE: dict[str, Any] = {
    "name": "small",
    "rounds": 12,
    "data": {"name": "polydigits", "modalities": 3, "partition": {"name": "dirichlet", "alpha": 0.5}},
    "sites": {"count": 4},
    "missing": {split: {"level": "sample", "rate": 0.3} for split in ("train", "validation", "test")},
    "recovery": "mask",
}
SWEEP: dict[str, Any] = {
    "name": "small",
    "base": "base.yaml",
    "axes": {"recovery": ["mask", "zero", "mean", "uniform"], "seed": {"first": 0, "count": 10}},
}


def cpu_seconds_of_all_below() -> float:
    """User and system time of every process that was started below this one and has ended, however deep: those whose
    parent is gone come to this one, which waits for them."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime


def test_forty_small_cells_keep_two_cores_busy(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE), encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP), encoding="utf-8")
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before = cpu_seconds_of_all_below()
    command = [sys.executable, "-m", "server.cli", "sweep", "sweep.yaml", "--workers", str(CORES)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    used = cpu_seconds_of_all_below() - before
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"\n40 cells, {wall:.1f} s, {used:.1f} CPU seconds: {used / wall / CORES:.3f} of {CORES} cores (aim {AIM})")
    assert used / wall / CORES >= AIM

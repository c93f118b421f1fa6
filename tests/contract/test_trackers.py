"""The contract of every tracker; a new file needs no edit here."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from fedrecon_core.registry import discover
from server.trackers.base import TRACKER_PACKAGES, TRACKERS, TrackedRun, Tracker, TrackerParams
from tests.helpers import tracked

RESULT = {
    "status": "completed",
    "rounds": 3,
    "best_round": 2,
    "test": {"n": 9, "uar": 0.5},
    "bytes_up": 7,
    "wall_seconds": 1.5,
}
FAILED = {"status": "failed", "error": "round 3 failed 3 times", "exit_code": 1, "rounds": 2}
INTERRUPTED = {"status": "interrupted", "error": "interrupted", "exit_code": 130, "rounds": 2}
VALUES = {"train/loss": 0.25, "validation/uar": 0.5, "train/loss_generator": float("nan"), "sites/bytes_up": 12}


def tracker_of(name: str) -> Tracker:
    """The tracker with its defaults."""
    cls: Any = TRACKERS.get(name)
    tracker: Tracker = cls(cls.Params())
    return tracker


def run_in(folder: Path, last: int = 0, memory: dict[str, Any] | None = None) -> TrackedRun:
    """A run that begins, or goes on after the round ``last``."""
    config = {"name": "toy", "rounds": 3, "recovery": {"name": "mask", "hidden": [8, 8]}, "data": {"root": None}}
    tags, labels = {"engine": "inprocess", "seed": "0"}, {"rate (of, all)": "30%", "seed": "0"}
    return TrackedRun(folder, "toy", config, tags, last, memory or {}, labels)


def check_records_a_whole_run(name: str, folder: Path) -> None:
    tracker = tracker_of(name)
    tracker.start(run_in(folder))
    for round_ in (1, 2, 3):
        tracker.metrics(round_, VALUES)
    tracker.finish(RESULT)
    tracker.close()


def check_goes_on_with_what_it_remembers(name: str, folder: Path) -> None:
    first = tracker_of(name)
    memory = first.start(run_in(folder))
    assert memory, "an empty memory is that of a run that never began"
    assert json.loads(json.dumps(memory)) == memory
    first.metrics(1, VALUES)
    first.finish(INTERRUPTED)
    first.close()
    second = tracker_of(name)
    assert second.start(run_in(folder, 1, memory)) == memory, "the same run has the same memory"
    second.metrics(2, VALUES)
    second.finish(RESULT)
    second.close()


def check_goes_on_where_its_directory_was_moved_to(name: str, folder: Path) -> None:
    before, now = folder / "before", folder / "now"
    before.mkdir()
    first = tracker_of(name)
    memory = first.start(run_in(before))
    first.metrics(1, VALUES)
    first.close()
    before.rename(now)
    second = tracker_of(name)
    assert second.start(run_in(now, 1, memory)) == memory
    second.metrics(2, VALUES)
    second.close()
    assert not before.exists()


def check_what_changes_while_a_run_is_down_does_not_hinder_it(name: str, folder: Path) -> None:
    begun = run_in(folder)
    first = tracker_of(name)
    memory = first.start(begun)
    first.close()
    second = tracker_of(name)
    second.start(replace(run_in(folder, 0, memory), config={"rounds": 9}, tags={"engine": "ray"}))
    second.metrics(1, VALUES)
    second.close()


def check_takes_whatever_names_a_config_holds(name: str, folder: Path) -> None:
    rates = {"walking (upstairs)": 0.3, "a, b & c": 0.1, "größer": 0.2, "x" * 300: 0.4}
    tracker = tracker_of(name)
    tracker.start(replace(run_in(folder), config={"missing": {"train": {"classes": rates}}}))
    tracker.metrics(1, VALUES)
    tracker.close()


def check_a_failed_run_is_reported_and_closed(name: str, folder: Path) -> None:
    tracker = tracker_of(name)
    tracker.start(run_in(folder))
    tracker.finish(FAILED)
    tracker.close()


def check_closes_without_a_start(name: str, folder: Path) -> None:
    tracker_of(name).close()
    assert not any(folder.iterdir())


def check_writes_below_the_run_directory_alone_and_calls_nobody(name: str, folder: Path) -> None:
    """With its defaults. What a process of its own does is not seen; addresses of this machine are no one else."""
    work, run = folder / "work", folder / "run"
    work.mkdir()
    run.mkdir()
    called: list[Any] = []

    def connect(sock: Any, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            called.append(address)
            raise OSError("no network in this test")
        return real(sock, address)

    real = socket.socket.connect
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(work))
        stack.enter_context(patch.object(socket.socket, "connect", connect))
        check_records_a_whole_run(name, run)
    assert not called
    assert not any(work.iterdir())
    assert any(run.iterdir())


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]


# --- every registered tracker against its contract; a new file needs no edit here ------------------------------------


discover(TRACKER_PACKAGES)

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    pytest.param(name, check, id=f"{name}-{check.__name__.removeprefix('check_')}")
    for name in TRACKERS.names()
    for check in CHECKS
]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """The defaults are those of a user who has set nothing."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "check"), CASES)
def test_tracker(name, check, tmp_path):
    tracked.require(name)
    check(name, tmp_path)


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_tracker_names_its_keys_and_how_to_get_its_package(name):
    cls = TRACKERS.get(name)
    assert issubclass(cls.Params, TrackerParams)
    cls.Params()  # no key is required: `tracking.<name>: true` is enough
    assert cls.package is None or cls.pip


def test_no_package_of_a_tracker_is_loaded_before_a_run_starts():
    packages = {cls.package for _, cls in TRACKERS.items()} - {None}
    program = (
        "import sys, server.cli, server.app, client.app; from fedrecon_core.registry import discover;"
        f"discover({TRACKER_PACKAGES!r}); print(sorted({packages!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_site_knows_of_no_tracker():
    program = "import sys, client.app; print([name for name in sys.modules if name.startswith('server')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

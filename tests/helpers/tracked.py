"""Values that trackers stored, read back with the readers and message types of their own packages."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedrecon_core.registry import discover
from server.trackers.base import TRACKER_PACKAGES, TRACKERS, TrackedRun

Points = dict[str, list[tuple[int, float]]]
"""Tag -> (step, value) in their order."""
BLOCK = 32768
WHOLE, FIRST, LAST = 1, 2, 4


def require(name: str) -> None:
    """Skip the test if the package of the tracker ``name`` is not installed. In CI (FEDRECON_CI is set) the test fails
    instead, because all packages should be installed there."""
    cls = TRACKERS.get(name)
    if cls.package is None or find_spec(cls.package) is not None:
        return
    reason = f"the package {cls.package} is not installed: python -m pip install {cls.pip}"
    if os.environ.get("FEDRECON_CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def tensorboard_points(directory: Path) -> Points:
    """The scalars that TensorBoard shows, restarts of the run taken into account."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def mlflow_run(directory: Path) -> tuple[Any, Any]:
    """MLflow's client of the store in the run directory, and the only run there."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{directory / 'mlflow.db'}")
    [run] = client.search_runs([known.experiment_id for known in client.search_experiments()])
    return client, run


def mlflow_points(directory: Path) -> Points:
    client, run = mlflow_run(directory)
    return {
        tag: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, tag)]
        for tag in run.data.metrics
    }


def begin_at_once(name: str, keys: dict[str, Any], folders: list[Path]) -> None:
    """Start a tracked run in each of ``folders``, in separate processes at the same moment; all must succeed."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(folders))
    processes = [spawn.Process(target=_begin, args=(name, keys, folder, barrier)) for folder in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(folders)


def _begin(name: str, keys: dict[str, Any], folder: Path, barrier: Any) -> None:
    discover(TRACKER_PACKAGES)
    cls: Any = TRACKERS.get(name)
    import_module(cls.package)
    folder.mkdir()
    barrier.wait(timeout=300)
    tracker = cls(cls.Params(**keys))
    tracker.start(TrackedRun(folder, folder.name, {}))
    tracker.close()


def wandb_records(directory: Path) -> Iterator[Any]:
    """Every record of the run's offline files, the oldest file first.

    Each is a log of LevelDB's format after a header of 7 bytes: blocks of records with checksum, length and kind.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(directory.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, text = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if BLOCK - at % BLOCK < 7:
                at += BLOCK - at % BLOCK
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            text = data[at + 7 : at + 7 + length] if kind in (WHOLE, FIRST) else text + data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (WHOLE, LAST):
                yield Record.FromString(text)


def wandb_points(directory: Path) -> Points:
    found: Points = {}
    for record in wandb_records(directory):
        for item in record.history.item:
            tag = item.key or ".".join(item.nested_key)
            if not tag.startswith("_"):
                found.setdefault(tag, []).append((record.history.step.num, json.loads(item.value_json)))
    return found


def wandb_summary(directory: Path) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for record in wandb_records(directory)
        for item in record.summary.update
    }


READERS = {"tensorboard": tensorboard_points, "mlflow": mlflow_points, "wandb": wandb_points}

"""Cells on a Ray cluster: a task for each, in a folder of its node's own, from which the finished run comes back."""

from __future__ import annotations

import logging
import math
import signal
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedrecon_core.errors import FedReconError, UsageError, describe_error, one_line
from server.engines.ray import require_cluster
from server.runs.directory import RunDirectory
from server.runs.setup import resolve_config
from server.sweep.current_provenance import device_on_ray
from server.sweep.executor import Ended, LostError, Workers
from server.sweep.folder_swap import exchange
from server.sweep.packed import pack, run_packed, unpack
from server.sweep.store import LOCK_SECONDS

GRAIN = 10_000
"""Ray counts a resource in so many parts, and rounds: the shares of a GPU must not add up to more than 1."""
LOST_SECONDS = 20.0
"""How long the cluster's head may be silent. Ray waits for 60 seconds, in any call, then ends the calling process."""


def gpu_share(gpus: float, workers: int | None) -> float:
    """What a run on CUDA asks for of the cluster's ``gpus``: a whole one, or so much of one that ``workers`` runs find
    room at a time. Memory is not shared out: how many runs fit on a GPU, the person knows who chose ``workers``.

    Raises:
        UsageError: there is none.
    """
    if gpus < 1:
        raise UsageError("device: 'cuda' needs a GPU, and the Ray cluster has none; set device: cpu or auto")
    runs = max(math.ceil((workers or 1) / int(gpus)), 1)
    return math.floor(GRAIN / runs) / GRAIN


def received(path: Path, data: bytes) -> Ended:
    """The run that came back as ``data``, in the place of the run directory ``path``: what it says of its end. Where
    someone goes on with ``path`` meanwhile, that stays, and what came back is gone."""
    try:
        with RunDirectory(path).lock(LOCK_SECONDS):
            exchange(path, lambda arrived: unpack(data, arrived))
    except (FedReconError, OSError, tarfile.TarError) as error:
        return Ended(path, f"it came back and could not be written here: {one_line(describe_error(error))}")
    return Ended.of(path, "its Ray task ended without a result")


class OnRay(Workers):
    """As many tasks at a time as the cluster has cpus, or ``workers``; ``docs/ray-cluster.md`` says what its machines
    need. A task that is lost with its node is a failed cell, as a process that dies is; its rounds are lost as well."""

    def __init__(self, address: str, workers: int | None = None) -> None:
        """Connect to the cluster at ``address`` (HOST:PORT); ``UsageError`` where there is none."""
        require_cluster(address, "--ray-address")
        asked_to_end = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"--ray-address: no Ray cluster can be used at {address}: {one_line(str(error))}"
            ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, asked_to_end)  # Ray's own handler, which it has set, ends the process at once
        self._address = address
        self._workers = workers
        self._resources = ray.cluster_resources()
        # A process of its own for each: nothing that one cell leaves in memory stays there for the next.
        self._task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(run_packed)
        self._running: dict[Any, Path] = {}

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """The cluster's cpus as ``ended`` found them last: nodes may join."""
        return self._workers or max(int(self._resources.get("CPU", 1)), 1)

    def start(self, path: Path) -> None:
        """Send the run directory; see ``Workers.start``. ``UsageError`` for a run on CUDA where no node has a GPU: Ray
        would wait for one."""
        task = self._task
        if device_on_ray(resolve_config(path / "config.yaml")) == "cuda":
            task = task.options(num_gpus=gpu_share(self._resources.get("GPU", 0), self._workers))
        self._running[task.remote(pack(path, ("run.lock",)))] = path

    def ended(self, seconds: float) -> list[Ended]:
        """See ``Workers.ended``."""
        self._wait_for_head()
        try:
            self._resources = ray.cluster_resources()
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        except RayError as error:
            raise LostError(f"the Ray cluster at {self._address} is lost: {one_line(str(error))}") from None
        return [self._take(task) for task in ready]

    def _wait_for_head(self) -> None:
        """Return at once where the head answers; ``LostError`` if it does not within ``LOST_SECONDS``."""
        deadline = time.monotonic() + LOST_SECONDS
        while True:
            try:
                return require_cluster(self._address, "--ray-address")
            except UsageError:
                if time.monotonic() > deadline:
                    told = f"its head has not answered for {LOST_SECONDS:.0f} seconds"
                    raise LostError(f"the Ray cluster at {self._address} is lost: {told}") from None
            time.sleep(1.0)

    def _take(self, task: Any) -> Ended:
        path = self._running.pop(task)
        try:
            data = ray.get(task)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            return Ended(path, f"its Ray task was lost: {one_line(str(cause))}")
        return received(path, data)

    def close(self) -> None:
        """End the tasks; see ``Workers.close``. The rounds since each task began are lost with the folder of its node:
        the run directory here is as it was sent. The cluster stays."""
        for task in self._running:
            ray.cancel(task, force=True)
        self._running = {}
        ray.shutdown()

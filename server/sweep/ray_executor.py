"""Run trials on a Ray cluster: each is a task in a temporary folder of its node, and its run is copied back."""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import tarfile
import tempfile
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import FedReconError, UsageError, describe_error, one_line
from fedrecon_core.files import replace_folder
from server.engines.ray import require_cluster
from server.runs.directory import RunDirectory
from server.sweep.executor import Ended, Executor, LostError, run_trial
from server.sweep.store import LOCK_SECONDS, ROUNDS, device_on_ray

RAY_UNITS = 10_000
"""The number of parts into which Ray divides a resource. Ray rounds shares of a GPU to whole parts; the rounded shares
must not add up to more than 1."""
LOST_SECONDS = 20.0
"""How long the cluster's head may not answer before the cluster counts as lost."""
RECONNECT, RECONNECT_SECONDS = "RAY_gcs_rpc_server_reconnect_timeout_s", "3600"
"""Ray ends a process whose head has not answered for this time (default: 60 seconds). On a busy machine the sweep may
need longer to record that its trials have failed."""
LOCK = "run.lock"


class RayExecutor(Executor):
    """As many tasks at a time as the cluster has CPUs, or ``workers``. ``docs/ray-cluster.md`` says what its machines
    need. A trial whose node is lost fails, and the rounds since its task began are lost."""

    def __init__(self, address: str, workers: int | None = None) -> None:
        """Connect to the cluster at ``address`` (HOST:PORT); ``UsageError`` if there is none. Sets ``RECONNECT`` in the
        environment of this process, unless the user has set it."""
        require_cluster(address, "--ray-address")
        handler = signal.getsignal(signal.SIGTERM)
        os.environ.setdefault(RECONNECT, RECONNECT_SECONDS)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            reason = one_line(str(error))
            raise UsageError(f"--ray-address: cannot use the Ray cluster at {address}: {reason}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has set one that ends the process at once
        self._address = address
        self._workers = workers
        self._resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        # A new process for each trial, so that no memory of one is left for the next.
        self._task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(run_packed)
        self._running: dict[Any, Path] = {}

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """The CPUs of the cluster, as of the last ``wait``: nodes may join."""
        return self._workers or max(int(self._resources.get("CPU", 1)), 1)

    def start(self, path: Path, config: RunConfig) -> None:
        """Send the run directory to a task; see ``Executor.start``. ``UsageError`` for a run on CUDA if no node has a
        GPU, for which Ray would wait."""
        task = self._task
        if device_on_ray(config) == "cuda":
            task = task.options(num_gpus=gpu_share(self._resources.get("GPU", 0), self._workers))
        self._running[task.remote(pack(path, (LOCK,)))] = path

    def wait(self, seconds: float) -> list[Ended]:
        """See ``Executor.wait``. The cluster is lost if its head does not answer within ``LOST_SECONDS``."""
        deadline = time.monotonic() + LOST_SECONDS
        while True:
            try:
                require_cluster(self._address, "--ray-address")
                break
            except UsageError:
                if time.monotonic() > deadline:
                    raise self._lost() from None
            time.sleep(1.0)
        try:
            self._resources = self._ask_resources()
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        except RayError as error:
            raise LostError(f"the Ray cluster at {self._address} is lost: {one_line(str(error))}") from None
        ended = []
        for task in ready:
            path = self._running.pop(task)
            try:
                data = ray.get(task)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                ended.append(Ended(path, f"its Ray task was lost: {one_line(str(cause))}"))
            else:
                ended.append(copy_back(path, data))
        return ended

    def _ask_resources(self) -> dict[str, float]:
        """The cluster's resources. Ray is asked in a thread: its call blocks if the head ends just then."""
        answer: Future[dict[str, float]] = Future()

        def ask() -> None:
            try:
                answer.set_result(ray.cluster_resources())  # type: ignore[no-untyped-call]
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            return answer.result(LOST_SECONDS)
        except TimeoutError:
            raise self._lost() from None

    def _lost(self) -> LostError:
        reason = f"its head has not answered for {LOST_SECONDS:.0f} seconds"
        return LostError(f"the Ray cluster at {self._address} is lost: {reason}")

    def close(self) -> None:
        """Cancel the tasks; see ``Executor.close``. The run directories on this machine are as they were sent. The
        cluster keeps running."""
        for task in self._running:
            ray.cancel(task, force=True)
        self._running = {}
        ray.shutdown()


def gpu_share(gpus: float, workers: int | None) -> float:
    """How many GPUs a run on CUDA reserves in a cluster with ``gpus``: one, or a part of one that is small enough for
    ``workers`` runs at a time. Memory is not divided: users set ``workers`` to the number of runs that fit.

    Raises:
        UsageError: the cluster has no GPU.
    """
    if gpus < 1:
        raise UsageError("device: 'cuda' needs a GPU, and the Ray cluster has none; set device: cpu or auto")
    runs = max(math.ceil((workers or 1) / int(gpus)), 1)
    return math.floor(RAY_UNITS / runs) / RAY_UNITS


# --- run directories as bytes ---------------------------------------------------------------------------------------


def pack(folder: Path, without: Collection[str] = ()) -> bytes:
    """Pack ``folder`` as a tar archive, without the entries that ``without`` names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in without:
                archive.add(path, arcname=path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Unpack the archive ``data`` of ``pack`` into ``folder``; files with the same names are overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")


def run_packed(data: bytes) -> bytes:
    """Unpack a run directory into a temporary folder of this machine, run or resume it, and pack the result. A failed
    run keeps its checkpoints, so that it can be resumed on any machine."""
    with tempfile.TemporaryDirectory(prefix="fedrecon-") as folder:
        path = Path(folder) / "run"
        unpack(data, path)
        completed = run_trial(path)
        return pack(path, (*ROUNDS, LOCK) if completed else (LOCK,))


def copy_back(path: Path, data: bytes) -> Ended:
    """Replace the run directory ``path`` by the run packed in ``data``, and return how that ended. If another process
    has resumed ``path`` meanwhile, it stays, and ``data`` is dropped."""
    try:
        with RunDirectory(path).lock(LOCK_SECONDS):
            replace_folder(path, lambda new: unpack(data, new))
    except (FedReconError, OSError, tarfile.TarError) as error:
        return Ended(path, f"its result was returned but could not be written here: {one_line(describe_error(error))}")
    return Ended.of(path, "its Ray task ended without a result")

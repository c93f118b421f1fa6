"""Processes, free ports, waits, a simulated clock, a Ray cluster, and a limit on file sizes."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.engines import processes

PATIENCE = 600.0
"""Seconds until a wait fails: only a hang takes so long, even on a busy machine."""
PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections, above those of Ray's workers."""


def wait_until(
    what: str, condition: Callable[[], object], process: subprocess.Popen[Any] | None = None, seconds: float = PATIENCE
) -> None:
    """Wait for ``condition``. Fail after ``seconds``, or as soon as ``process`` has ended without it."""
    deadline = time.monotonic() + seconds
    while True:
        ended = process is not None and process.poll() is not None
        if condition():
            return
        assert not ended, f"ended before: {what}; {process.communicate() if process else ''}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A free port of loopback, drawn at random, so that two tests do not choose the same one."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


# --- a Ray cluster ----------------------------------------------------------------------------------------------------


@contextmanager
def two_nodes(home: Path, left: Callable[[], object], *own: str) -> Iterator[str]:
    """Start a cluster of two nodes with one CPU each and the additional flags ``own``; yield its address. Its processes
    are marked with the name of ``home``, a new folder whose path is short enough for Ray's sockets. At the end, wait
    until none of them is ``left``."""
    environment = {**os.environ, **processes.environment(home.name), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["OMP_NUM_THREADS"] = "1"
    home.mkdir()  # some of Ray's processes lose their environment, and keep their working directory
    port = free_port()

    def ray(*flags: str) -> None:
        command = [Path(sys.executable).parent / "ray", "start", "--num-cpus=1", "--disable-usage-stats", *own, *flags]
        subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True, timeout=PATIENCE)

    try:
        local = ["--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={home}/ray"]
        ray("--head", f"--port={port}", *local)
        ray(f"--address=127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
    finally:
        processes.end(home.name)
        wait_until("Ray has ended its processes", lambda: not left())
        shutil.rmtree(home, ignore_errors=True)


def kill_head(home: Path) -> None:
    """Kill the head of the cluster and its node, as a power failure would."""
    killed = [process for process in processes.marked(home.name) if _of_head(process)]
    for process in killed:
        os.kill(process, signal.SIGKILL)
    assert len(killed) == 2, killed


def _of_head(process: int) -> bool:
    command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return command[0].endswith(b"/gcs_server") or (command[0].endswith(b"/raylet") and b"--head" in command)


# --- a disk without room ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let writes beyond ``size`` bytes fail with an ``OSError`` ("File too large"); Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- a clock ----------------------------------------------------------------------------------------------------------


class Clock:
    """Simulated time that only passes in ``sleep``. Patch it in as ``time`` of the module under test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._planned: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance the time, and call the actions that are due."""
        self.now += seconds
        due = [action for moment, action in self._planned if moment <= self.now]
        self._planned = [(moment, action) for moment, action in self._planned if moment > self.now]
        for action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call ``action`` once ``seconds`` have passed."""
        self._planned.append((self.now + seconds, action))

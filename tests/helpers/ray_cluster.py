"""A Ray cluster on this machine that is removed completely at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.engines import processes
from tests.helpers.processes import PATIENCE, free_port, wait_until


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
    """Kill the head of the cluster and the node that it runs on, as a power cut would."""
    killed = [process for process in processes.marked(home.name) if _of_head(process)]
    for process in killed:
        os.kill(process, signal.SIGKILL)
    assert len(killed) == 2, killed


def _of_head(process: int) -> bool:
    command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return command[0].endswith(b"/gcs_server") or (command[0].endswith(b"/raylet") and b"--head" in command)

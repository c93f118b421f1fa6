"""Find and end all processes that a run has started, and limit them to one thread.

A process inherits its environment and its working directory from its parent. A unique name in either of them therefore
marks all processes of a run, including those that left the process group and those whose parent has ended. Linux shows
both in ``/proc``. Neither is enough alone: Ray's agents overwrite their environment with their title, and a program may
change its working directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "FEDRECON_RUN"


def environment(token: str) -> dict[str, str]:
    """The environment variable that marks a process and its children with ``token``.

    If its working directory is in a folder named ``token``, children that lose their environment are found as well.
    """
    return {MARK: token}


def marked(token: str) -> list[int]:
    """The ids of the running processes that carry ``token``, except this process."""
    found, mark = [], f"{MARK}={token}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or it belongs to another user
                environment_of = (entry / "environ").read_bytes().split(b"\0")
                if mark in environment_of or token in (entry / "cwd").readlink().parts:
                    found.append(int(entry.name))
    return found


def wait_until_gone(token: str, seconds: float) -> bool:
    """Wait until no process carries ``token``; False if some still do after ``seconds``."""
    deadline = time.monotonic() + seconds
    while marked(token):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def end(token: str, grace: float = 3.0) -> None:
    """End every process that carries ``token``: SIGTERM, then after ``grace`` seconds SIGKILL until none is left."""
    _signal(token, signal.SIGTERM)
    if wait_until_gone(token, grace):
        return
    deadline = time.monotonic() + 10.0
    while marked(token) and time.monotonic() < deadline:  # again: one may have started another meanwhile
        _signal(token, signal.SIGKILL)
        time.sleep(0.05)


def _signal(token: str, number: signal.Signals) -> None:
    for process in marked(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit child processes that are started inside the block to one thread, from their first import on."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before

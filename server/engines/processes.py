"""The processes that a run starts: with one thread each, and found and ended exactly, however deep they were started.

A process inherits its environment and its working directory from the one that starts it. A name that no other run has,
in either of them, therefore marks all of them, also those that left the process group and those whose parent is gone.
Linux shows both in ``/proc``. Neither is enough alone: Ray's agents write their title over their environment, and a
program may work elsewhere.
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
    """What to add to the environment of a process so that it and its children are found by ``token``.

    Where its working directory also lies in a folder named ``token``, those that lose their environment are found, too.
    """
    return {MARK: token}


def marked(token: str) -> list[int]:
    """The ids of the running processes that carry ``token``, this one never among them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended meanwhile, or it belongs to someone else
                if _carries(entry, token):
                    found.append(int(entry.name))
    return found


def _carries(entry: Path, token: str) -> bool:
    in_environment = f"{MARK}={token}".encode() in (entry / "environ").read_bytes().split(b"\0")
    return in_environment or token in (entry / "cwd").readlink().parts


def wait_until_gone(token: str, seconds: float) -> bool:
    """Whether no process carries ``token`` any more, waiting at most ``seconds`` for it."""
    deadline = time.monotonic() + seconds
    while marked(token):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def end(token: str, grace: float = 3.0) -> None:
    """End every process that carries ``token``: ask, wait ``grace`` seconds, then kill until none is left."""
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
    """Child processes that start inside use one thread from their first import on."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before

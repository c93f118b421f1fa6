"""Cells on this machine: a process for each, forked from one that has imported what they all need."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from server.engines.processes import one_thread
from server.sweep.executor import Ended, Workers
from server.sweep.record import LOG

_FORKSERVER = multiprocessing.get_context("forkserver")
"""A fork of this process itself would take its threads' locks along; the server has no threads."""
PRELOADED = "server.sweep.preload"


def _warm_up() -> None:
    """Start the process that cells are forked from, which imports while this one goes on, and ends with it."""
    forkserver.set_forkserver_preload([PRELOADED])
    with _quiet_children():
        forkserver.ensure_running()


class Forked(Workers):
    """``workers`` processes at a time, one thread each."""

    def __init__(self, workers: int) -> None:
        self.capacity = workers
        self._running: dict[Path, Any] = {}
        _warm_up()

    def start(self, path: Path) -> None:
        """Fork a process for the run; see ``Workers.start``."""
        # Not a daemon: a cell may start processes of its own, for example to load data.
        process = _FORKSERVER.Process(target=_live, args=(path,))
        _warm_up()  # it is there, unless someone ended it
        process.start()
        self._running[path] = process

    def ended(self, seconds: float) -> list[Ended]:
        """See ``Workers.ended``. A process that died says with what."""
        sentinels = {process.sentinel: path for path, process in self._running.items()}
        return [self._take(sentinels[ready]) for ready in wait(list(sentinels), seconds)]

    def _take(self, path: Path) -> Ended:
        process = self._running.pop(path)
        process.join()
        return Ended.of(path, _death(process.exitcode))

    def close(self) -> None:
        """Kill what runs; see ``Workers.close``."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.join()
        self._running = {}


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        told = " (out of memory, or ended from outside)" if -code == signal.SIGKILL else ""
        return f"its process was ended by signal {signal.Signals(-code).name}{told}"
    return f"its process ended without a result (exit code {code})"


def _live(path: Path) -> None:
    """The life of a cell's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the sweep ends its cells itself
    from server.engines.pool import end_with_parent  # here: commands that run no cell stay quick

    # Even if the sweep was killed: none may write on where a next sweep takes over.
    threading.Thread(target=end_with_parent, daemon=True).start()
    from server.sweep.trial_run import run_trial

    raise SystemExit(0 if run_trial(path, path / LOG) else 1)


@contextmanager
def _quiet_children() -> Iterator[None]:
    """A process that starts inside uses one thread from its first import on, and leaves Ctrl-C to this one."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ours else None
    try:
        with one_thread():
            yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)

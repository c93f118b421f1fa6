"""Run trials on this machine, each in a process forked from one that has imported everything."""

from __future__ import annotations

import signal
import threading
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fedrecon_core.config import RunConfig
from server.engines import fork_server
from server.sweep.executor import Ended, Executor, run_trial

PRELOADED = "server.sweep.preload"


class LocalExecutor(Executor):
    """``workers`` processes at a time, one thread each."""

    def __init__(self, workers: int) -> None:
        self.capacity = workers
        self._running: dict[Path, Any] = {}
        fork_server.ensure_running([PRELOADED])

    def start(self, path: Path, config: RunConfig) -> None:
        """Fork a process for the run; see ``Executor.start``."""
        # Not a daemon: a trial may start processes of its own, for example to load data.
        process = fork_server.CONTEXT.Process(target=_trial_process, args=(path,))
        fork_server.ensure_running()  # it may have been killed
        process.start()
        self._running[path] = process

    def wait(self, seconds: float) -> list[Ended]:
        """See ``Executor.wait``. The reason of a process that died is its signal or exit code."""
        paths = {process.sentinel: path for path, process in self._running.items()}
        ended = []
        for sentinel in wait(list(paths), seconds):
            path = paths[sentinel]
            process = self._running.pop(path)
            process.join()
            code = process.exitcode
            reason = f"its process ended without a result (exit code {code})"
            if code is not None and code < 0:
                hint = " (out of memory, or killed from outside)" if -code == signal.SIGKILL else ""
                reason = f"its process was ended by signal {signal.Signals(-code).name}{hint}"
            ended.append(Ended.of(path, reason))
        return ended

    def close(self) -> None:
        """Kill all running trials; see ``Executor.close``."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.join()
        self._running = {}


def _trial_process(path: Path) -> None:
    """Main function of a trial's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the sweep ends its trials itself
    from server.engines.pool import end_with_parent  # here, so that commands that run no trial start fast

    # If the sweep is killed, its trials end too: the next sweep may work on them.
    threading.Thread(target=end_with_parent, daemon=True).start()
    raise SystemExit(0 if run_trial(path) else 1)

"""The fork server: one process with all imports, from which the sites of a run and the trials of a sweep are forked.

A process that computes has threads, whose locks a fork would copy, so it cannot be forked itself. A new process for
each site or trial would take seconds to import PyTorch.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Sequence
from multiprocessing import forkserver

from server.engines.processes import one_thread

CONTEXT = multiprocessing.get_context("forkserver")


def ensure_running(modules: Sequence[str] = ()) -> None:
    """Start the fork server, unless it is running. It imports ``modules`` (default: those of the last start) in the
    background and ends with this process.

    It inherits the limit of one thread, and ignores Ctrl-C, which this process handles.
    """
    if modules:
        forkserver.set_forkserver_preload(list(modules))
    main = threading.current_thread() is threading.main_thread()  # only there can handlers be set
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        with one_thread():
            forkserver.ensure_running()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)

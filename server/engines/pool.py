"""Where the in-process engine answers messages: in its own process, or in a few processes beside it.

The processes are plain ``multiprocessing`` ones with one pipe each. An executor would mark every message in flight as
lost when one process dies; here a death belongs to the one message that the process was answering, and a process that
does not come back can be ended by its handle.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from server.engines.processes import one_thread

# Flower's own codes, so that the server reads one vocabulary whatever the engine.
RAISED = 2
LATE = 4
DIED = 8

_SPAWN = multiprocessing.get_context("spawn")  # a forked copy of a process with torch in it can hang


@dataclass(frozen=True)
class Answer:
    """What became of ``message``: the reply, the state to keep, and why there is no result, if there is none."""

    message: Message
    reply: Message
    state: RecordDict | None = None
    failure: str = ""


def load(name: str) -> Any:
    """The object behind ``module:attribute``; ``ImportError`` or ``AttributeError`` if there is none."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def answer(app: ClientApp, message: Message, context: Context) -> Answer:
    """Run ``app`` on ``message``; whatever it raises becomes an error reply, and its changes of the state are lost."""
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp must return a Message, found {type(reply).__name__}")
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        return Answer(message, Message(Error(RAISED, reason), reply_to=message), failure=traceback.format_exc())
    return Answer(message, reply, context.state)


class Runner(ABC):
    """Answers messages, ``capacity`` of them at a time."""

    capacity: int

    @abstractmethod
    def start(self, message: Message, context: Context) -> None:
        """Take ``message``; the caller keeps within ``capacity``."""

    @abstractmethod
    def finished(self, seconds: float) -> list[Answer]:
        """The answers that are there, waiting at most ``seconds`` for the first one."""

    def late(self, timeout: float) -> list[Answer]:
        """Give up the messages that have run for longer than ``timeout`` seconds. One process cannot: it has none."""
        return []

    @abstractmethod
    def abandon(self, message_ids: Container[str]) -> None:
        """Leave nothing of ``message_ids`` that were taken: no process at work on them, and no answer."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""


class Here(Runner):
    """Answers one message at a time in this process; a site only ever waits for its turn, so none is late."""

    capacity = 1

    def __init__(self, app: ClientApp) -> None:
        """``app`` answers every message."""
        self._app = app
        self._taken: deque[tuple[Message, Context]] = deque()

    def start(self, message: Message, context: Context) -> None:
        """Take ``message``; it runs when its answer is asked for."""
        self._taken.append((message, context))

    def finished(self, seconds: float) -> list[Answer]:
        """Run the message that was taken."""
        return [answer(self._app, *self._taken.popleft())] if self._taken else []

    def abandon(self, message_ids: Container[str]) -> None:
        """Forget those that were taken and did not run."""
        self._taken = deque(taken for taken in self._taken if taken[0].metadata.message_id not in message_ids)

    def close(self) -> None:
        """Forget what was taken and did not run."""
        self._taken.clear()


class Pool(Runner):
    """``workers`` processes beside this one; a process that dies or is late is replaced when it is needed again."""

    def __init__(self, app: str, workers: int) -> None:
        """``app`` is the ClientApp as ``module:attribute``; every process loads it once."""
        self.capacity = workers
        self._app = app
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []

    def start(self, message: Message, context: Context) -> None:
        """Hand ``message`` to an idle process, or to a new one."""
        self._grow()
        process = self._idle.pop(0)
        self._busy.append(process)
        process.give(message, context)

    def _grow(self) -> None:
        # All at once: they import torch at the same time, while the first message is on its way.
        while len(self._idle) + len(self._busy) < self.capacity:
            self._idle.append(_Process(self._app))

    def finished(self, seconds: float) -> list[Answer]:
        """Answers of the processes that are done, and error replies for those that died."""
        ready = wait([process.pipe for process in self._busy], seconds) if self._busy else []
        return [self._collect(process) for process in list(self._busy) if process.pipe in ready]

    def _collect(self, process: _Process) -> Answer:
        self._busy.remove(process)
        result = process.take()
        if process.alive:
            self._idle.append(process)
        return result

    def late(self, timeout: float) -> list[Answer]:
        """End the processes whose message has run for longer than ``timeout`` seconds; error replies say so."""
        now = time.monotonic()
        late = [process for process in self._busy if now - process.since > timeout and not process.pipe.poll()]
        self._end(late)
        return [_error(process.message, LATE, f"no answer in {timeout:g} s") for process in late]

    def abandon(self, message_ids: Container[str]) -> None:
        """End the processes that answer one of ``message_ids``."""
        self._end([process for process in self._busy if process.message.metadata.message_id in message_ids])

    def _end(self, processes: list[_Process]) -> None:
        for process in processes:
            self._busy.remove(process)
            process.end()

    def close(self) -> None:
        """End every process, whatever it is doing."""
        for process in self._idle + self._busy:
            process.end()
        self._idle, self._busy = [], []


class _Process:
    """One process that answers one message at a time."""

    def __init__(self, app: str) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        # Written by the process when it takes a message: its own start, with torch to import, makes no site late.
        self._since = _SPAWN.RawValue("d", math.inf)
        # Not a daemon: a site may start processes of its own, for example to load data.
        self._process = _SPAWN.Process(target=_serve, args=(theirs, self._since, app))
        with one_thread():
            self._process.start()
        theirs.close()  # else the end of the process would not be seen on the pipe
        self.alive = True

    def give(self, message: Message, context: Context) -> None:
        """Send ``message``; if the process is gone already, ``take`` says so."""
        self.message = message
        self._since.value = math.inf
        with contextlib.suppress(OSError):
            self.pipe.send((message, context))

    @property
    def since(self) -> float:
        """When the process took the message, by ``time.monotonic``, one clock for all; infinity if it has not yet."""
        return float(self._since.value)

    def take(self) -> Answer:
        """The answer, or an error reply if the process died over the message."""
        try:
            reply, state, failure = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(timeout=1)  # its own exit code, not the one of the kill below
            self.end()
            reason = f"the site's process ended (exit code {self._process.exitcode})"
            return _error(self.message, DIED, reason)
        return Answer(self.message, reply, state, failure)

    def end(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self.alive = False
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _error(message: Message, code: int, reason: str) -> Answer:
    return Answer(message, Message(Error(code, reason), reply_to=message), failure=reason)


def _serve(pipe: Connection, since: Any, name: str) -> None:
    """The life of a process: answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its processes itself
    threading.Thread(target=end_with_parent, daemon=True).start()
    import torch  # here: this module stays cheap for processes that run no site

    torch.set_num_threads(1)
    app = load(name)
    while True:
        try:
            message, context = pipe.recv()
        except EOFError:
            return
        since.value = time.monotonic()
        _send(pipe, answer(app, message, context))


def _send(pipe: Connection, result: Answer) -> None:
    """Send what the parent does not have yet; a reply that cannot be sent becomes an error reply."""
    try:
        pipe.send((result.reply, result.state, result.failure))
    except (TypeError, ValueError, AttributeError) as error:
        reply = Message(Error(RAISED, f"the reply cannot be sent: {error}"), reply_to=result.message)
        pipe.send((reply, None, traceback.format_exc()))


def end_with_parent() -> None:
    """End this process at once when the parent is gone, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

"""Runners of the in-process engine: they answer messages in the engine's own process, or in worker processes.

The workers are plain ``multiprocessing`` processes with one pipe each. An executor of ``concurrent.futures`` would lose
all running messages when one process dies; here only the message that the process was answering is lost, and a process
that does not answer can be killed.
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

from server.engines import fork_server

# Flower's own error codes: the server sees the same ones on every engine.
RAISED = 2
LATE = 4
DIED = 8


@dataclass(frozen=True)
class Answer:
    """The outcome of ``message``: the reply, the state to store, and the reason of a failure (empty without one)."""

    message: Message
    reply: Message
    state: RecordDict | None = None
    failure: str = ""


def load(name: str) -> Any:
    """Import the object ``module:attribute``; ``ImportError`` or ``AttributeError`` if it does not exist."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def answer(app: ClientApp, message: Message, context: Context) -> Answer:
    """Run ``app`` on ``message``. An exception becomes an error reply, and changes of the state are dropped."""
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp must return a Message, found {type(reply).__name__}")
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        return Answer(message, Message(Error(RAISED, reason), reply_to=message), failure=traceback.format_exc())
    return Answer(message, reply, context.state)


class Runner(ABC):
    """Base class: answers up to ``capacity`` messages at a time."""

    capacity: int

    @abstractmethod
    def start(self, message: Message, context: Context) -> None:
        """Start ``message``; the caller respects ``capacity``."""

    @abstractmethod
    def finished(self, seconds: float) -> list[Answer]:
        """Wait at most ``seconds`` for an answer, and return those that have arrived."""

    def late(self, timeout: float) -> list[Answer]:
        """Give up messages that have run for longer than ``timeout`` seconds, if they run in worker processes."""
        return []

    @abstractmethod
    def abandon(self, message_ids: Container[str]) -> None:
        """Stop working on ``message_ids``; they get no answer."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything that is running."""


class Here(Runner):
    """Answers one message at a time in this process. Messages cannot be interrupted, so that none is ever late."""

    capacity = 1

    def __init__(self, app: ClientApp) -> None:
        """Let ``app`` answer every message."""
        self._app = app
        self._started: deque[tuple[Message, Context]] = deque()

    def start(self, message: Message, context: Context) -> None:
        """Store ``message``; ``finished`` runs it."""
        self._started.append((message, context))

    def finished(self, seconds: float) -> list[Answer]:
        """Run the message that was started."""
        return [answer(self._app, *self._started.popleft())] if self._started else []

    def abandon(self, message_ids: Container[str]) -> None:
        """Drop those that have not run yet."""
        self._started = deque(item for item in self._started if item[0].metadata.message_id not in message_ids)

    def close(self) -> None:
        """Drop the messages that have not run yet."""
        self._started.clear()


class Pool(Runner):
    """Answers messages in ``workers`` processes. A process that dies or is late is replaced when it is needed again."""

    def __init__(self, app: str, workers: int) -> None:
        """Set up the pool. ``app`` is the ClientApp as ``module:attribute``; every process loads it once."""
        self.capacity = workers
        self._app = app
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []

    def start(self, message: Message, context: Context) -> None:
        """Send ``message`` to an idle process. All processes are started with the first message, so that they import
        PyTorch at the same time."""
        while len(self._idle) + len(self._busy) < self.capacity:
            self._idle.append(_Process(self._app))
        process = self._idle.pop(0)
        self._busy.append(process)
        process.give(message, context)

    def finished(self, seconds: float) -> list[Answer]:
        """Return the answers of the processes that are done, and error replies for those that died."""
        ready = wait([process.pipe for process in self._busy], seconds) if self._busy else []
        answers = []
        for process in [process for process in self._busy if process.pipe in ready]:
            self._busy.remove(process)
            answers.append(process.receive())
            if process.alive:
                self._idle.append(process)
        return answers

    def late(self, timeout: float) -> list[Answer]:
        """End the processes whose message has run for longer than ``timeout`` seconds; return error replies."""
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
        """End every process, also in the middle of a message."""
        for process in self._idle + self._busy:
            process.end()
        self._idle, self._busy = [], []


class _Process:
    """One process that answers one message at a time."""

    def __init__(self, app: str) -> None:
        self.pipe, theirs = fork_server.CONTEXT.Pipe()
        # Set by the process when it receives a message: the time in which it imports PyTorch does not count.
        self._since = fork_server.CONTEXT.RawValue("d", math.inf)
        # Not a daemon: a site may start processes of its own, for example to load data.
        arguments = (theirs, self._since, app, dict(os.environ))
        self._process = fork_server.CONTEXT.Process(target=_serve, args=arguments)
        fork_server.ensure_running()  # it may have been killed
        self._process.start()
        theirs.close()  # otherwise this process would not notice on the pipe that the other one has ended
        self.alive = True

    def give(self, message: Message, context: Context) -> None:
        """Send ``message``; if the process has ended already, ``receive`` reports it."""
        self.message = message
        self._since.value = math.inf
        with contextlib.suppress(OSError):
            self.pipe.send((message, context))

    @property
    def since(self) -> float:
        """The time (``time.monotonic``) at which the process received the message; infinity if it has not yet."""
        return float(self._since.value)

    def receive(self) -> Answer:
        """Return the answer, or an error reply if the process died while it worked on the message."""
        try:
            reply, state, failure = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(timeout=1)  # so that the exit code is that of the process and not that of the kill below
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


def _serve(pipe: Connection, since: Any, name: str, environment: dict[str, str]) -> None:
    """Main function of a worker process: answer messages until the pipe closes."""
    os.environ.update(environment)  # the fork server may have been started with another one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its processes itself
    threading.Thread(target=end_with_parent, daemon=True).start()
    import torch  # here, so that processes that run no site can import this module quickly

    torch.set_num_threads(1)
    app = load(name)
    while True:
        try:
            message, context = pipe.recv()
        except EOFError:
            return
        since.value = time.monotonic()
        result = answer(app, message, context)
        try:
            pipe.send((result.reply, result.state, result.failure))
        except (TypeError, ValueError, AttributeError) as error:  # the reply cannot be pickled
            reply = Message(Error(RAISED, f"the reply cannot be sent: {error}"), reply_to=message)
            pipe.send((reply, None, traceback.format_exc()))


def end_with_parent() -> None:
    """End this process at once when its parent has ended, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

"""The log of a run on a SuperLink, line by line, over any number of connections that break or die without a word."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable

from server.engines.superlink import DIRECTORY

SILENCE_SECONDS = 60.0
"""A log that says nothing for this long is read anew: the connection may be dead, and its reader would never know."""
RESTART_SECONDS = 5.0
LAST_SECONDS = 30.0
CLOSE_SECONDS = 5.0
"""How long its process may take to end before it is killed."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FLOWERS_OWN = re.compile(r"^(INFO|DEBUG|WARNING)\s*:|^Using SuperLink: |^Successfully installed ")
_FAULT = re.compile(r"^ERROR\s*:|^fedrecon: ")
_EXIT = re.compile(r"^ERROR\s*:\s*Exit Code: ")
_TRACEBACK = re.compile(r"^\s*(\+ )?(Exception Group )?Traceback \(most recent call last\):")
_CHAIN = re.compile(r"^(During handling of the above exception, another|The above exception was the direct cause of)")


class Faults:
    """Holds the lines of a fault back until it shows what it was: something that the run survived, or its end.

    The frames of a traceback are not for users and are never shown; every other line is, unless it ends a run whose
    status tells the reason.
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self._inside = False  # a traceback
        self._over = False  # the ServerApp told its exit code, and what follows explains it

    def take(self, line: str) -> list[str]:
        """The lines to show now that ``line`` has come."""
        if self._frame(line):
            return []
        self._over = self._over or _EXIT.match(line) is not None
        if self._over or self._inside or _FAULT.match(line) or (self._held and not line.strip()):
            self._inside = False  # its last line names the exception
            self._held.append(line)
            return []
        shown, self._held = [*self._held, line], []
        return shown

    def end(self, told: bool) -> list[str]:
        """The lines that are still to be shown at the end. ``told``: the run's status tells why it failed."""
        shown, self._held = ([] if told else self._held), []
        return shown

    def _frame(self, line: str) -> bool:
        if _TRACEBACK.match(line):
            self._inside = True
            return True
        return _CHAIN.match(line) is not None or (self._inside and (not line or line[0].isspace()))


class RunLog:
    """Shows each line of a log once. ``connect`` starts a process that prints the log from its beginning; a thread
    reads it, and calls ``show`` as lines come."""

    def __init__(self, connect: Callable[[], subprocess.Popen[str]], show: Callable[[str], None]) -> None:
        self.directory: str | None = None
        """Where the run directory lies, once the log has told."""
        self.ended = threading.Event()
        """Set when the process has ended, with the run or with the connection."""
        self._connect, self._show = connect, show
        self._faults = Faults()
        self._seen = 0
        self._stream: _Stream | None = None

    def tend(self, doubtful: bool = False) -> None:
        """Start reading; start anew where the process has ended or been silent for long, or its connection is
        ``doubtful``. Raises what ``show`` raised."""
        if self._stream is None or doubtful or self._stream.stale():
            self._restart()

    def finish(self, told: bool) -> bool:
        """Show the rest of the log of a run that has ended; whether it could be read. ``told`` as in ``Faults.end``."""
        stream = self._restart()  # the process before may have ended before the last lines were there
        whole = stream.wait(LAST_SECONDS)
        self.close()
        for line in self._faults.end(told):
            self._show(line)
        return whole

    def close(self) -> None:
        """End the process."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _restart(self) -> _Stream:
        self.close()
        self.ended.clear()
        self._stream = _Stream(self._connect(), self._hear, self.ended)
        return self._stream

    def _hear(self, number: int, line: str) -> None:
        if number <= self._seen:
            return
        self._seen = number
        if found := DIRECTORY.match(line):
            self.directory = found["path"]
        for shown in self._faults.take(line):
            self._show(shown)


class _Stream:
    """One process that prints a log, and the thread that reads it: ``hear`` gets the lines that are not Flower's own,
    numbered from 1."""

    def __init__(
        self, process: subprocess.Popen[str], hear: Callable[[int, str], None], ended: threading.Event
    ) -> None:
        self._process, self._hear, self._ended = process, hear, ended
        self._began = self._heard = time.monotonic()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stale(self) -> bool:
        """Whether to start another one. Raises what ``hear`` raised."""
        self._complain()
        now = time.monotonic()
        if self._thread.is_alive():
            return now - self._heard > SILENCE_SECONDS
        return now - self._began > RESTART_SECONDS

    def wait(self, seconds: float) -> bool:
        """Whether the log was read to its end in at most ``seconds``. Raises what ``hear`` raised."""
        self._thread.join(seconds)
        self._complain()
        return not self._thread.is_alive() and self._process.wait() == 0

    def close(self) -> None:
        """End the process and the thread."""
        self._process.terminate()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(CLOSE_SECONDS)

    def _read(self) -> None:
        try:
            self._lines()
        except BaseException as error:  # the main thread raises it
            self._failure = error
        finally:
            self._ended.set()

    def _lines(self) -> None:
        number = 0
        for text in self._process.stdout or ():
            self._heard = time.monotonic()
            line = _COLOUR.sub("", text.rstrip("\n"))
            # A line that was cut off comes whole from the next process.
            if _FLOWERS_OWN.match(line) or not (text.endswith("\n") or self._process.wait() == 0):
                continue
            number += 1
            self._hear(number, line)

    def _complain(self) -> None:
        if self._failure is not None:
            raise self._failure

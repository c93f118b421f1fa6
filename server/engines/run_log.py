"""Read the log of a run on a SuperLink line by line, over connections that may break or stop without an error."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable

from server.engines.superlink import DIRECTORY

SILENCE_SECONDS = 60.0
"""A log without a new line for this long is read again from its beginning: its connection may be dead, which the
reading process does not notice."""
RESTART_SECONDS = 5.0
LAST_SECONDS = 30.0
CLOSE_SECONDS = 5.0
"""How long the process of a log may take to end before it is killed."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FLOWERS_OWN = re.compile(r"^(INFO|DEBUG|WARNING)\s*:|^Using SuperLink: |^Successfully installed ")
ERROR = re.compile(r"^ERROR\s*:|^fedrecon: ")
EXIT = re.compile(r"^ERROR\s*:\s*Exit Code: ")
TRACEBACK = re.compile(r"^\s*(\+ )?(Exception Group )?Traceback \(most recent call last\):")
CHAIN = re.compile(r"^(During handling of the above exception, another|The above exception was the direct cause of)")


class ErrorFilter:
    """Filters errors out of a log: an error's lines are held back until the run continues or ends.

    Frames of a traceback are never shown. All other lines are shown, except for the error that ends the run if the
    run's status contains the same error.
    """

    def __init__(self) -> None:
        self.held: list[str] = []
        self.in_traceback = False
        self.exited = False  # the ServerApp has printed its exit code; the lines that follow explain it

    def take(self, line: str) -> list[str]:
        """Add ``line`` and return the lines to show now."""
        if TRACEBACK.match(line):
            self.in_traceback = True
            return []
        if CHAIN.match(line) or (self.in_traceback and (not line or line[0].isspace())):
            return []
        self.exited = self.exited or EXIT.match(line) is not None
        if self.exited or self.in_traceback or ERROR.match(line) or (self.held and not line.strip()):
            self.in_traceback = False  # this is the last line of the traceback, with the exception
            self.held.append(line)
            return []
        shown, self.held = [*self.held, line], []
        return shown

    def finish(self, known_reason: bool) -> list[str]:
        """Return the lines to show at the end. ``known_reason``: the run's status contains the reason."""
        shown, self.held = ([] if known_reason else self.held), []
        return shown


class RunLog:
    """Shows each line of a log once. ``connect`` starts a process that prints the log from its beginning. A thread
    reads its output and calls ``show`` for each line."""

    def __init__(self, connect: Callable[[], subprocess.Popen[str]], show: Callable[[str], None]) -> None:
        self.directory: str | None = None
        """The run directory, after its line in the log has been read."""
        self.ended = threading.Event()
        """Set when the process has ended, because of the end of the run or of the connection."""
        self.connect, self.show = connect, show
        self.errors = ErrorFilter()
        self.seen = 0
        self.stream: LogStream | None = None

    def keep_open(self, restart: bool = False) -> None:
        """Start to read the log, unless it is being read. Start a new process if the old one has ended or has printed
        nothing for too long, or if ``restart`` is set. Raises an exception of ``show``."""
        if self.stream is None or restart or self.stream.stale():
            self.restart()

    def finish(self, known_reason: bool) -> bool:
        """Show the rest of the log of a run that has ended. Returns whether all of it could be read. ``known_reason``:
        see ``ErrorFilter.finish``."""
        stream = self.restart()  # the old process may have ended before the last lines were written
        complete = stream.wait(LAST_SECONDS)
        self.close()
        for line in self.errors.finish(known_reason):
            self.show(line)
        return complete

    def close(self) -> None:
        """End the process."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.close()

    def restart(self) -> LogStream:
        """Read the log from its beginning with a new process."""
        self.close()
        self.ended.clear()
        self.stream = LogStream(self.connect(), self.receive, self.ended)
        return self.stream

    def receive(self, number: int, line: str) -> None:
        """Show the line ``number``, unless it came from an earlier process already."""
        if number <= self.seen:
            return
        self.seen = number
        if found := DIRECTORY.match(line):
            self.directory = found["path"]
        for shown in self.errors.take(line):
            self.show(shown)


class LogStream:
    """A process that prints a log, and the thread that reads it. ``receive`` is called with the number (from 1) and the
    text of each line that is not one of Flower's own messages."""

    def __init__(
        self, process: subprocess.Popen[str], receive: Callable[[int, str], None], ended: threading.Event
    ) -> None:
        self.process, self.receive, self.ended = process, receive, ended
        self.began = self.heard = time.monotonic()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def stale(self) -> bool:
        """Whether to start a new process. Raises an exception of ``receive``."""
        self.raise_failure()
        now = time.monotonic()
        if self.thread.is_alive():
            return now - self.heard > SILENCE_SECONDS
        return now - self.began > RESTART_SECONDS

    def wait(self, seconds: float) -> bool:
        """Whether the log was read to its end within ``seconds``. Raises an exception of ``receive``."""
        self.thread.join(seconds)
        self.raise_failure()
        return not self.thread.is_alive() and self.process.wait() == 0

    def close(self) -> None:
        """End the process and the thread."""
        self.process.terminate()
        try:
            self.process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.thread.join(CLOSE_SECONDS)

    def read(self) -> None:
        """Main function of the thread: call ``receive`` for the lines of the process until it ends."""
        number = 0
        try:
            for text in self.process.stdout or ():
                self.heard = time.monotonic()
                line = COLOUR.sub("", text.rstrip("\n"))
                # An incomplete line is skipped: the next process prints it complete.
                if FLOWERS_OWN.match(line) or not (text.endswith("\n") or self.process.wait() == 0):
                    continue
                number += 1
                self.receive(number, line)
        except BaseException as error:  # the main thread raises it
            self.failure = error
        finally:
            self.ended.set()

    def raise_failure(self) -> None:
        """Raise the exception that ``receive`` raised in the thread."""
        if self.failure is not None:
            raise self.failure

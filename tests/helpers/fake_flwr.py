"""A stand-in for the ``flwr`` command, whose one run is told in files: what it does is what a test writes there."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

RUN = "7"
UNAVAILABLE = "Connection to the SuperLink is unavailable."

_PROGRAM = """\
#!{python} -I
import json, sys, time
from pathlib import Path

here, (command, *arguments) = Path({folder!r}), sys.argv[1:]
state = lambda: json.loads((here / "state.json").read_text())
tell = lambda **answer: print(json.dumps(answer))

def stream():
    with (here / "streams.txt").open("a") as file:
        print(__import__("os").getpid(), file=file, flush=True)
    print("Using SuperLink: fake (127.0.0.1:1)", flush=True)
    told = 0
    while True:
        now = state()
        if now["down"]:
            sys.exit(1)
        if not now["deaf"]:
            log = (here / "log.txt").read_text()
            print(log[told:], end="", flush=True)
            told = len(log)
            if now["status"].startswith("finished"):
                return
        time.sleep(0.02)

if command == "log":
    stream()
elif state()["down"]:
    tell(success=False, **{{"error-message": {unavailable!r}}})
else:
    now = state()
    run = {{"run-id": {run!r}, "status": now["status"], "status-details": now["details"], "pending-at": "then"}}
    tell(success=True, runs=[run])
"""


class FakeFlwr:
    """The program, and the run that it tells of. ``deaf``: its log streams say nothing and never end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, folder / "flwr"
        text = _PROGRAM.format(python=sys.executable, folder=str(folder), unavailable=UNAVAILABLE, run=RUN)
        self.program.write_text(text)
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        (folder / "log.txt").touch()
        (folder / "streams.txt").touch()
        self._state = {"status": "running", "details": "N/A", "down": False, "deaf": False}
        self.set()

    def set(self, **changes: str | bool) -> None:
        """Change what the commands answer: ``status``, ``details``, ``down``, ``deaf``."""
        self._state |= changes
        partial = self.folder / "state.partial"
        partial.write_text(json.dumps(self._state))
        partial.replace(self.folder / "state.json")

    def log(self, text: str) -> None:
        """Add ``text`` to the log of the run."""
        with (self.folder / "log.txt").open("a") as file:
            file.write(text)

    def streams(self) -> list[int]:
        """The processes that were started to read the log."""
        return [int(line) for line in (self.folder / "streams.txt").read_text().split()]

    def alive(self) -> list[int]:
        """Those that have not ended."""
        return [process for process in self.streams() if _exists(process)]


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True

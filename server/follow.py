"""Progress of a run that goes on in another process: its metrics file is read as it grows."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from server.progress import PlainProgress
from server.run_directory import RunDirectory

POLL_SECONDS = 0.5


class Follower:
    """Prints a round's line when the run has written it; used as a context around an engine that only returns at the
    end. What the file held before (a resumed run) is not shown again."""

    def __init__(self, console: Console, directory: RunDirectory, rounds: int) -> None:
        self._path: Path = directory.path / "metrics.jsonl"
        self._seen = self._path.stat().st_size if self._path.exists() else 0
        self._progress = PlainProgress(console, rounds)
        self._losses: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        """Start reading."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Read what is left, then stop."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._read()
        self._read()

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if self._path.stat().st_size < self._seen:  # a resume has dropped the lines of rounds that it repeats
                self._seen = self._path.stat().st_size
            file.seek(self._seen)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._seen += len(whole)
        for line in whole.splitlines():
            self._show(json.loads(line))

    def _show(self, line: dict[str, Any]) -> None:
        if line["split"] == "train":
            named = {"generator": "loss_generator", "mapping": "loss_mapping", "task": "loss"}
            self._losses = {phase: line[key] for phase, key in named.items() if key in line}
        if line["split"] == "validation":
            self._progress.round_done(line["round"], self._losses, line)

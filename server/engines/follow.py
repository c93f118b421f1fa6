"""Show the progress of a run that another process executes, by reading its growing metrics file."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from server.runs.directory import RunDirectory
from server.training.progress import PlainProgress

POLL_SECONDS = 0.5


class Follower:
    """A context manager around an engine that prints a line for each new round in the metrics file. Rounds that the
    file of a resumed run already has at the beginning are not shown again."""

    def __init__(self, console: Console, directory: RunDirectory, rounds: int) -> None:
        self._path: Path = directory.path / "metrics.jsonl"
        self._lines = self._whole_lines()
        self._progress = PlainProgress(console, rounds, _last_round(self._lines) + 1)
        self._losses: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        """Start reading."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Show the remaining lines, then stop."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.read()
        self.read()

    def read(self) -> None:
        """Show the rounds that are new in the file.

        A resume removes the lines of the rounds that it repeats, and may have written some of them again since the last
        call. New lines are therefore recognized by their content, which includes wall-clock times, and not by their
        position.
        """
        before, self._lines = self._lines, self._whole_lines()
        kept = 0
        while kept < min(len(before), len(self._lines)) and before[kept] == self._lines[kept]:
            kept += 1
        if kept < len(before):
            self._progress.first = _last_round(self._lines[:kept]) + 1
        for line in map(json.loads, self._lines[kept:]):
            if line["split"] == "train":
                named = {"generator": "loss_generator", "mapping": "loss_mapping", "task": "loss"}
                self._losses = {phase: line[key] for phase, key in named.items() if key in line}
            if line["split"] == "validation":
                self._progress.round_done(line["round"], self._losses, line)

    def _whole_lines(self) -> list[bytes]:
        """The complete lines of the file. A line that is still being written is left for the next call."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return []
        return text[: text.rfind(b"\n") + 1].splitlines()


def _last_round(lines: Sequence[bytes]) -> int:
    """The highest round in ``lines``. It need not be in the last line: that of the test split has the best round."""
    return max((json.loads(line)["round"] for line in lines), default=0)

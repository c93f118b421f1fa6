"""Show the progress of a run in another process by reading its metrics file as it grows."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from server.runs.directory import RunDirectory
from server.training.progress import PlainProgress

POLL_SECONDS = 0.5


class Follower:
    """Prints a line for each round that the run has written, while used as a context manager around an engine. Lines
    that the file had before, in a resumed run, are not shown again."""

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
        """Show the lines that are new in the file.

        A resume drops the lines of the rounds that it repeats, and may have written some of them again by now. New
        lines are therefore recognised by their content, which includes wall-clock times, and not by their place.
        """
        lines = self._whole_lines()
        kept = _common(self._lines, lines)
        if kept < len(self._lines):
            self._progress.first = _last_round(lines[:kept]) + 1
        self._lines = lines
        for line in lines[kept:]:
            self._show(json.loads(line))

    def _whole_lines(self) -> list[bytes]:
        """The complete lines of the file; a line that is being written is read the next time."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return []
        return text[: text.rfind(b"\n") + 1].splitlines()

    def _show(self, line: dict[str, Any]) -> None:
        if line["split"] == "train":
            named = {"generator": "loss_generator", "mapping": "loss_mapping", "task": "loss"}
            self._losses = {phase: line[key] for phase, key in named.items() if key in line}
        if line["split"] == "validation":
            self._progress.round_done(line["round"], self._losses, line)


def _common(before: Sequence[bytes], now: Sequence[bytes]) -> int:
    """How many lines are the same from the beginning on."""
    same = 0
    for old, new in zip(before, now, strict=False):
        if old != new:
            break
        same += 1
    return same


def _last_round(lines: Sequence[bytes]) -> int:
    """The highest round; the line of the test split, if there is one, names an earlier one."""
    return max((json.loads(line)["round"] for line in lines), default=0)

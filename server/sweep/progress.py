"""What a person sees of a sweep that goes on: a live table on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedrecon_core.errors import one_line
from server.sweep.times import Times
from server.sweep.trials import Trial
from server.training import checkpoints

UNKNOWN = "?"


@dataclass(frozen=True)
class Running:
    """A cell at work: since when (``time.monotonic``) and, where it goes on, after which round."""

    trial: Trial
    path: Path
    since: float
    first: int

    @property
    def round(self) -> int:
        """The last round that is complete, as far as this machine can see."""
        try:
            return checkpoints.newest_round(self.path / "checkpoints")
        except (OSError, ValueError):  # a folder that cannot be read, or an odd name in it: nothing to end a sweep for
            return self.first

    def remaining(self, times: Times) -> float | None:
        """Seconds until its end, from its own rounds or else from other cells; None where nothing tells."""
        elapsed, done = time.monotonic() - self.since, self.round - self.first
        if done > 0:
            return elapsed / done * (self.trial.config.rounds - self.round)
        guess = times.guess(self.trial)
        return None if guess is None else max(guess - elapsed, 0.0)


@dataclass
class Tally:
    """How many cells are where."""

    total: int
    complete: int = 0
    failed: int = 0
    waiting: Sequence[Trial] = ()
    running: Sequence[Running] = ()
    capacity: int = 1

    def remaining(self, times: Times) -> float | None:
        """Seconds until the sweep's end if all workers stay busy; None where nothing tells."""
        parts = [*(times.guess(trial) for trial in self.waiting), *(trial.remaining(times) for trial in self.running)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        longest = max((part for part in parts[len(self.waiting) :] if part is not None), default=0.0)
        return max(sum(known) / self.capacity, longest)

    def words(self, times: Times) -> str:
        """``12 of 40 complete, 1 failed, 2 running, 25 waiting, ETA 0:10:00``."""
        counts = [f"{self.complete} of {self.total} complete", *([f"{self.failed} failed"] if self.failed else [])]
        counts += [f"{len(self.running)} running", f"{len(self.waiting)} waiting"]
        return ", ".join([*counts, f"ETA {clock(self.remaining(times))}"])


@dataclass
class Board:
    """A line for each cell that starts or ends. Base of the live table."""

    console: Console
    tally: Tally
    times: Times = field(default_factory=Times)

    def open(self) -> None:
        """Before the first cell."""

    def close(self) -> None:
        """After the last one, or when the sweep was interrupted."""

    def now(self, waiting: Sequence[Trial], running: Sequence[Running], capacity: int) -> None:
        """Which cells wait and which run."""
        self.tally.waiting, self.tally.running, self.tally.capacity = tuple(waiting), tuple(running), capacity

    def started(self, running: Running) -> None:
        """A cell has started."""
        self.say(f"started  {running.trial.title}{f' (after round {running.first})' if running.first else ''}")

    def ended(self, running: Running, reason: str, seconds: float) -> None:
        """A cell has ended: complete where there is no ``reason``."""
        self.tally.failed, self.tally.complete = self.tally.failed + bool(reason), self.tally.complete + (not reason)
        told = f"failed   {running.trial.title}: {reason}" if reason else f"complete {running.trial.title}"
        self.say(f"{told}  {clock(seconds)}  ({self.tally.words(self.times)})")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(one_line(text), highlight=False, soft_wrap=True, markup=False)


class LiveBoard(Board):
    """The same lines where cells end, above a table of those that run."""

    def open(self) -> None:
        """Show the table."""
        self._live = Live(console=self.console, get_renderable=self._table, transient=True, refresh_per_second=2)
        self._live.start()

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()

    def started(self, running: Running) -> None:
        """The table shows it."""

    def _table(self) -> RenderableType:
        table = Table("running", "round", "time", "ETA", box=None, pad_edge=False)
        for running in self.tally.running:
            rounds = f"{running.round}/{running.trial.config.rounds}"
            elapsed = clock(time.monotonic() - running.since)
            table.add_row(Text(running.trial.title), rounds, elapsed, clock(running.remaining(self.times)))
        return Group(table, Text(self.tally.words(self.times), style="bold"))


def clock(seconds: float | None) -> str:
    """``1:02:03``, or a question mark where nothing is known."""
    return UNKNOWN if seconds is None else str(timedelta(seconds=round(seconds)))


def board_for(console: Console, tally: Tally, times: Times) -> Board:
    """The live table where ``console`` is a terminal, plain lines where it is not."""
    return (LiveBoard if console.is_terminal else Board)(console, tally, times)

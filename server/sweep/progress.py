"""Progress of a running sweep: a live table on a terminal, a line per trial elsewhere, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedrecon_core.errors import one_line
from server.runs.directory import newest_round
from server.sweep.trials import Trial


class Times:
    """Seconds of trials that have ended, from which those of others are estimated."""

    def __init__(self) -> None:
        self._by_family: dict[tuple[str, ...], list[float]] = {}
        self._per_round: list[float] = []

    def add(self, trial: Trial, seconds: float) -> None:
        """Record that ``trial`` took ``seconds`` from its first round to its last."""
        self._by_family.setdefault(trial.family, []).append(seconds)
        self._per_round.append(seconds / trial.config.rounds)

    def family_mean(self, trial: Trial) -> float | None:
        """The mean time of the trials that differ from ``trial`` in the seed only; None if none has ended."""
        found = self._by_family.get(trial.family)
        return fmean(found) if found else None

    def estimate(self, trial: Trial) -> float | None:
        """``family_mean`` or, without it, the rounds of ``trial`` at the mean time per round of all trials that have
        ended; None if none has."""
        found = self.family_mean(trial)
        if found is None and self._per_round:
            return fmean(self._per_round) * trial.config.rounds
        return found


@dataclass(frozen=True)
class Running:
    """A running trial: its start (``time.monotonic``), and the round after which it was resumed (0 if it is new)."""

    trial: Trial
    path: Path
    since: float
    first: int

    @property
    def round(self) -> int:
        """The last complete round that this machine can see."""
        try:
            return newest_round(self.path / "checkpoints")
        except (OSError, ValueError):  # unreadable, or a file with an odd name: no reason to end the sweep
            return self.first

    def remaining(self, times: Times) -> float | None:
        """Seconds until its end, estimated from its own rounds or else from other trials; None if unknown."""
        elapsed, done = time.monotonic() - self.since, self.round - self.first
        if done > 0:
            return elapsed / done * (self.trial.config.rounds - self.round)
        estimate = times.estimate(self.trial)
        return None if estimate is None else max(estimate - elapsed, 0.0)


@dataclass
class Tally:
    """Counts of trials by state, and those that run or wait."""

    total: int
    complete: int = 0
    failed: int = 0
    waiting: Sequence[Trial] = ()
    running: Sequence[Running] = ()
    capacity: int = 1

    def remaining(self, times: Times) -> float | None:
        """Seconds until the end of the sweep if the executor stays busy; None if unknown."""
        waiting = [times.estimate(trial) for trial in self.waiting]
        running = [trial.remaining(times) for trial in self.running]
        known = [seconds for seconds in (*waiting, *running) if seconds is not None]
        if len(known) < len(waiting) + len(running):
            return None
        longest = max((seconds for seconds in running if seconds is not None), default=0.0)
        return max(sum(known) / self.capacity, longest)

    def summary(self, times: Times) -> str:
        """``12 of 40 complete, 1 failed, 2 running, 25 waiting, ETA 0:10:00``."""
        counts = [f"{self.complete} of {self.total} complete", *([f"{self.failed} failed"] if self.failed else [])]
        counts += [f"{len(self.running)} running", f"{len(self.waiting)} waiting"]
        return ", ".join([*counts, f"ETA {clock(self.remaining(times))}"])


@dataclass
class Board:
    """Prints a line for each trial that starts or ends. Base class of the live table."""

    console: Console
    tally: Tally
    times: Times = field(default_factory=Times)

    def open(self) -> None:
        """Called before the first trial."""

    def close(self) -> None:
        """Called after the last trial, or when the sweep is interrupted."""

    def update(self, waiting: Sequence[Trial], running: Sequence[Running], capacity: int) -> None:
        """Set which trials wait and which run."""
        self.tally.waiting, self.tally.running, self.tally.capacity = tuple(waiting), tuple(running), capacity

    def started(self, running: Running) -> None:
        """Report that a trial has started."""
        self.print_line(f"started  {running.trial.title}{f' (after round {running.first})' if running.first else ''}")

    def ended(self, running: Running, reason: str, seconds: float) -> None:
        """Report that a trial has ended: complete if there is no ``reason``, failed otherwise."""
        self.tally.failed, self.tally.complete = self.tally.failed + bool(reason), self.tally.complete + (not reason)
        title = running.trial.title
        outcome = f"failed   {title}: {reason}" if reason else f"complete {title}"
        self.print_line(f"{outcome}  {clock(seconds)}  ({self.tally.summary(self.times)})")

    def print_line(self, text: str) -> None:
        """Print ``text`` as one line."""
        self.console.print(one_line(text), highlight=False, soft_wrap=True, markup=False)


class LiveBoard(Board):
    """Prints a line for each trial that ends, above a table of those that run."""

    def open(self) -> None:
        """Show the table."""
        self._live = Live(console=self.console, get_renderable=self.table, transient=True, refresh_per_second=2)
        self._live.start()

    def close(self) -> None:
        """Remove the table."""
        self._live.stop()

    def started(self, running: Running) -> None:
        """Print nothing: the table shows the trial."""

    def table(self) -> RenderableType:
        """The running trials with their rounds and times, and the summary."""
        table = Table("running", "round", "time", "ETA", box=None, pad_edge=False)
        for running in self.tally.running:
            rounds = f"{running.round}/{running.trial.config.rounds}"
            elapsed = clock(time.monotonic() - running.since)
            table.add_row(Text(running.trial.title), rounds, elapsed, clock(running.remaining(self.times)))
        return Group(table, Text(self.tally.summary(self.times), style="bold"))


def clock(seconds: float | None) -> str:
    """``1:02:03``, or a question mark if the time is unknown."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def board_for(console: Console, tally: Tally, times: Times) -> Board:
    """A live table if ``console`` is a terminal, plain lines otherwise."""
    return (LiveBoard if console.is_terminal else Board)(console, tally, times)

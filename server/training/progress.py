"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedrecon_core.registry import METRICS


class PlainProgress:
    """One line per round. Base of the live display."""

    def __init__(self, console: Console, rounds: int, first: int = 1) -> None:
        self.console = console
        self.rounds = rounds
        self.first = first
        self._started = time.monotonic()

    def open(self) -> None:
        """Before the first round."""

    def close(self) -> None:
        """After the last round, or when the run failed."""

    def round_started(self, round_: int, sites: int, stage: str = "train") -> None:
        """``sites`` sites are at work on ``stage`` of round ``round_``."""

    def site_done(self, name: str) -> None:
        """A site has answered."""

    def note(self, text: str) -> None:
        """Show a line to the user."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)  # parts of it come from sites

    def round_done(self, round_: int, losses: Mapping[str, float], validation: Mapping[str, Any] | None) -> None:
        """A round is complete, with its mean losses and, if it was evaluated, the validation line."""
        self.note(self._line(round_, losses, validation))

    def _line(self, round_: int, losses: Mapping[str, float], validation: Mapping[str, Any] | None) -> str:
        parts = [f"round {round_:>{len(str(self.rounds))}}/{self.rounds}"]
        parts += [f"{phase} loss {loss:.3f}" for phase, loss in losses.items()]
        if validation is not None:
            scores = ", ".join(f"{name} {validation[name]:.3f}" for name in METRICS.names() if name in validation)
            parts.append(f"validation {scores}")
        return "  ".join([*parts, f"ETA {_clock(self._remaining(round_))}"])

    def _remaining(self, round_: int) -> float:
        done = max(round_ - self.first + 1, 1)
        return (time.monotonic() - self._started) / done * (self.rounds - round_)


class LiveProgress(PlainProgress):
    """The same lines, above a bar that shows the round, its stage and how many sites have answered."""

    def __init__(self, console: Console, rounds: int, first: int = 1) -> None:
        super().__init__(console, rounds, first)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("sites"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("round 0: handshake", total=None)

    def open(self) -> None:
        """Show the bar."""
        self._bar.start()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def round_started(self, round_: int, sites: int, stage: str = "train") -> None:
        """Set the bar to this stage."""
        self._bar.reset(self._task, total=sites, description=f"round {round_}/{self.rounds} {stage}")

    def site_done(self, name: str) -> None:
        """Advance the bar."""
        self._bar.advance(self._task)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress_for(console: Console, rounds: int, first: int = 1) -> PlainProgress:
    """The live display where ``console`` is a terminal, plain lines where it is not."""
    return (LiveProgress if console.is_terminal else PlainProgress)(console, rounds, first)

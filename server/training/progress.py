"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedrecon_core.registry import METRICS


class PlainProgress:
    """Prints one line per round. Base class of the live display."""

    def __init__(self, console: Console, rounds: int, first: int = 1) -> None:
        self.console = console
        self.rounds = rounds
        self.first = first
        self._began = time.monotonic()

    def open(self) -> None:
        """Called before the first round."""

    def close(self) -> None:
        """Called after the last round, or when the run has failed."""

    def round_started(self, round_: int, sites: int, stage: str = "train") -> None:
        """Report that ``sites`` sites work on ``stage`` of round ``round_``."""

    def site_done(self, name: str) -> None:
        """Report that a site has answered."""

    def note(self, text: str) -> None:
        """Print a line for the user."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)  # parts of it come from sites

    def round_done(self, round_: int, losses: Mapping[str, float], validation: Mapping[str, Any] | None) -> None:
        """Report that a round is complete, with its mean losses and, if it was evaluated, the validation line."""
        parts = [f"round {round_:>{len(str(self.rounds))}}/{self.rounds}"]
        parts += [f"{phase} loss {loss:.3f}" for phase, loss in losses.items()]
        if validation is not None:
            scores = ", ".join(f"{name} {validation[name]:.3f}" for name in METRICS.names() if name in validation)
            parts.append(f"validation {scores}")
        done = max(round_ - self.first + 1, 1)
        minutes, seconds = divmod(round((time.monotonic() - self._began) / done * (self.rounds - round_)), 60)
        hours, minutes = divmod(minutes, 60)
        eta = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        self.note("  ".join([*parts, f"ETA {eta}"]))


class LiveProgress(PlainProgress):
    """Prints the same lines above a bar with the round, its stage and the number of sites that have answered."""

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
        self._task = self._bar.add_task("round 0: registering sites", total=None)

    def open(self) -> None:
        """Show the bar."""
        self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def round_started(self, round_: int, sites: int, stage: str = "train") -> None:
        """Set the bar to this stage."""
        self._bar.reset(self._task, total=sites, description=f"round {round_}/{self.rounds} {stage}")

    def site_done(self, name: str) -> None:
        """Advance the bar."""
        self._bar.advance(self._task)


def progress_for(console: Console, rounds: int, first: int = 1) -> PlainProgress:
    """The live display if ``console`` is a terminal, plain lines otherwise."""
    return (LiveProgress if console.is_terminal else PlainProgress)(console, rounds, first)

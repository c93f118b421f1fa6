"""Where the cells of a sweep run, some at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from fedrecon_core.errors import RunError
from server.sweep.record import ending


class LostError(RunError):
    """The place where runs are worked on is gone, and with it all that were at work there."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended, and why it did not complete (empty where it did)."""

    path: Path
    reason: str = ""

    @classmethod
    def of(cls, path: Path, otherwise: str) -> Ended:
        """What the run in ``path`` says of its end; ``otherwise`` where it ended without saying anything."""
        found = ending(path)
        done = found.get("status") == "completed"
        return cls(path, "" if done else str(found.get("error") or otherwise))


class Workers(ABC):
    """Runs run directories, at most ``capacity`` at a time. One that dies takes nothing along but its own run."""

    capacity: int

    @abstractmethod
    def start(self, path: Path) -> None:
        """Begin to work on the run directory ``path``, which holds its config; the caller keeps within ``capacity``."""

    @abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """The runs that have ended since the last call, waiting at most ``seconds`` for the first one.

        Raises:
            LostError: no run can be worked on any more; what is left of those at work is what ``close`` leaves.
        """

    @abstractmethod
    def close(self) -> None:
        """End what still runs, at once: what is left of it are the checkpoints that its run directory has here."""

"""Why predictions are not used: a fault is told once, with all cells that have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedrecon_core.errors import DataError
from server.runs.formatting import listing


@dataclass(frozen=True)
class Refusal:
    """``why`` is said of all cells with the same fault alike; ``cells`` are their folders by name, each with what was
    found there. No path is in them, so that a sweep that is copied has the same table."""

    why: str
    trials: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``predictions.parquet is not there (mask-1 and mask-2)``."""
        return f"{self.why} ({listing(list(self.trials))})" if self.trials else self.why


class RefusedError(DataError):
    """Predictions cannot be used, or not for this."""

    def __init__(self, why: str, *trials: str) -> None:
        self.refusal = Refusal(why, trials)
        super().__init__(str(self.refusal))


def merged(refusals: Iterable[Refusal]) -> list[Refusal]:
    """One of each fault, with all of its cells."""
    found: dict[str, dict[str, None]] = {}
    for one in refusals:
        found.setdefault(one.why, {}).update(dict.fromkeys(one.trials))
    return [Refusal(why, tuple(trials)) for why, trials in found.items()]

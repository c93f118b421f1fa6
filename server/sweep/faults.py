"""Faults of a matrix, each told once with the cells that have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.runs.formatting import listing
from server.sweep.choices import exactly, fits, titled

Labels = Mapping[str, str]
SHOWN = 3


class Faults:
    """What is wrong with cells of a matrix, in the order in which it was found."""

    def __init__(self) -> None:
        self._found: dict[str, list[Labels]] = {}

    def add(self, words: str, trials: Sequence[Labels]) -> None:
        """``words`` hold for ``cells``."""
        self._found.setdefault(words, []).extend(trials)

    def __bool__(self) -> bool:
        return bool(self._found)

    def told(self, matrix: Sequence[Labels]) -> str:
        """All of them, each after the cells of ``matrix`` that have it, named by the levels that set them apart."""
        return "; ".join(f"{_which(trials, matrix)}: {words}" for words, trials in self._found.items())


def _which(trials: Sequence[Labels], matrix: Sequence[Labels]) -> str:
    if len(trials) == 1:
        return f"cell {titled(trials[0])}"
    if len(trials) == len(matrix):
        return f"all {len(trials)} cells"
    shared = {
        parameter: value for parameter, value in trials[0].items() if all(trial[parameter] == value for trial in trials)
    }
    if sum(fits(trial, exactly(shared)) for trial in matrix) == len(trials):
        apart = {
            parameter: value
            for parameter, value in shared.items()
            if any(trial[parameter] != value for trial in matrix)
        }
        return f"the {len(trials)} cells with {titled(apart)}"
    return f"{len(trials)} cells ({listing([titled(trial) for trial in trials], SHOWN)})"

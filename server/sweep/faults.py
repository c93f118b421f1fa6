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

    def add(self, words: str, cells: Sequence[Labels]) -> None:
        """``words`` hold for ``cells``."""
        self._found.setdefault(words, []).extend(cells)

    def __bool__(self) -> bool:
        return bool(self._found)

    def told(self, matrix: Sequence[Labels]) -> str:
        """All of them, each after the cells of ``matrix`` that have it, named by the levels that set them apart."""
        return "; ".join(f"{_which(cells, matrix)}: {words}" for words, cells in self._found.items())


def _which(cells: Sequence[Labels], matrix: Sequence[Labels]) -> str:
    if len(cells) == 1:
        return f"cell {titled(cells[0])}"
    if len(cells) == len(matrix):
        return f"all {len(cells)} cells"
    shared = {axis: level for axis, level in cells[0].items() if all(cell[axis] == level for cell in cells)}
    if sum(fits(cell, exactly(shared)) for cell in matrix) == len(cells):
        apart = {axis: level for axis, level in shared.items() if any(cell[axis] != level for cell in matrix)}
        return f"the {len(cells)} cells with {titled(apart)}"
    return f"{len(cells)} cells ({listing([titled(cell) for cell in cells], SHOWN)})"

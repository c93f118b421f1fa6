"""Scores on the test samples that show certain modalities alone: they tell where a method gains and where it loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrecon_core.errors import DataError, UsageError
from fedrecon_core.registry import METRICS
from server.comparison.answers import Answers, read_answers
from server.comparison.results import Result
from server.report.formats import listing, plural

_SHOWN = "has_"


@dataclass(frozen=True)
class Shown:
    """The samples that show exactly the modalities ``names`` or, without any, exactly ``count`` modalities."""

    names: frozenset[str] = frozenset()
    count: int = 0

    def __str__(self) -> str:
        """``acc and gyro alone``, ``1 modality``."""
        return f"{listing(sorted(self.names))} alone" if self.names else plural(self.count, "modality", "modalities")

    def rows(self, predictions: pa.Table) -> NDArray[np.bool_]:
        """Which samples of ``predictions`` these are; none where the data lack one of the modalities."""
        columns = {name: name.removeprefix(_SHOWN) for name in predictions.column_names if name.startswith(_SHOWN)}
        if not columns or not self.names <= set(columns.values()):
            return np.zeros(len(predictions), dtype=bool)
        found = np.stack([predictions[name].to_numpy() for name in columns]).astype(bool)
        if not self.names:
            return np.asarray(found.sum(axis=0) == self.count)
        wanted = np.array([name in self.names for name in columns.values()])
        return np.asarray((found == wanted[:, None]).all(axis=0))


def read_shown(text: str) -> Shown:
    """``1`` or ``acc,gyro``, as the command line has it."""
    words = [word.strip() for word in text.split(",")]
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) > 0:
        return Shown(count=int(words[0]))
    if not all(words) or any(word.isdecimal() for word in words):
        raise UsageError(f"--shown: expected a number of modalities from 1 on, or names of some, found '{text}'")
    return Shown(frozenset(words))


def rescored(results: Sequence[Result], shown: Shown) -> list[Result]:
    """``results`` with the scores of those samples alone, as far as their predictions tell them.

    Raises:
        DataError: no cell has predictions of such samples.
    """
    found = [replace(result, shown=shown.rows, scores=dict(_scores(result, shown))) for result in results]
    if not any(result.scores for result in found):
        raise DataError(f"--shown: no complete cell has predictions of test samples that show {shown}")
    return found


def _scores(result: Result, shown: Shown) -> Iterator[tuple[str, float]]:
    """Those of the run that answers alone can tell."""
    try:
        answers: Answers = read_answers(result.directory, result.target, result.classes, shown.rows)
    except DataError:  # a table tells which cells lack a score
        return
    for name in result.scores if answers.clusters else ():
        if name in METRICS.names():
            try:
                yield name, answers.score(METRICS.get(name))
            except ValueError:  # it needs more than answers
                continue

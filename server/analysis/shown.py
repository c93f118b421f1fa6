"""Scores on the test samples that show certain modalities alone: they tell where a method gains and where it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrecon_core.errors import DataError, UsageError
from server.analysis.prediction_counts import check_scores, read_answers, shown
from server.analysis.prediction_errors import Refusal, RefusedError, merged
from server.analysis.results import Result
from server.runs.formatting import listing, plural


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
        found = shown(predictions)
        if not found or not self.names <= set(found):
            return np.zeros(len(predictions), dtype=bool)
        if not self.names:
            return np.asarray(np.sum(list(found.values()), axis=0) == self.count)
        return np.all([column == (name in self.names) for name, column in found.items()], axis=0)


def read_shown(text: str) -> Shown:
    """``1`` or ``acc,gyro``, as the command line has it."""
    words = [word.strip() for word in text.split(",")]
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) > 0:
        return Shown(count=int(words[0]))
    if not all(words) or any(word.isdecimal() for word in words):
        raise UsageError(f"--shown: expected a number of modalities from 1 on, or names of some, found '{text}'")
    return Shown(frozenset(words))


def rescored(results: Sequence[Result], part: Shown) -> tuple[list[Result], list[Refusal]]:
    """``results`` with the scores of those samples alone, as far as their predictions tell them, and what is wrong with
    the predictions that tell none.

    Raises:
        DataError: no cell has predictions of such samples.
    """
    found: list[Result] = []
    refused: list[Refusal] = []
    for result in results:
        try:
            found.append(_rescored(result, part))
        except RefusedError as error:
            found.append(replace(result, scores={}))  # a table tells which cells lack a score
            refused.append(error.refusal)
    if not any(result.scores for result in found):
        why = "".join(f"; {fault}" for fault in merged(refused))
        raise DataError(f"--shown: no complete cell has predictions of test samples that show {part}{why}")
    return found, merged(refused)


def _rescored(result: Result, part: Shown) -> Result:
    asked = result.directory, result.target, result.classes
    check_scores(read_answers(*asked), result.scores, result.directory.name)  # no result says what a part scores
    answers = read_answers(*asked, part.rows)
    if not answers.clusters or answers.missing is None:
        return replace(result, scores={}, answers=answers)
    missing = {**result.missing, "test": answers.missing}
    return replace(result, scores=answers.told(result.scores), missing=missing, answers=answers)

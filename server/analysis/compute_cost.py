"""The time of training that tables show: the processor's, in which what else a machine did does not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.analysis.results import Result
from server.runs.formatting import decimal, plural, seconds


@dataclass(frozen=True)
class Spent:
    """A measure of time: ``head`` of its column, ``about`` it in a sentence, ``of`` a result, and how it is
    ``written``."""

    head: str
    about: str
    of: Callable[[Result], float | None]
    written: Callable[[float | None], str]


def spent(results: Sequence[Result]) -> Spent:
    """Processor time where it is that of the work in each of ``results``, else wall clock for all: like is compared
    with like."""
    lacking = sum(not _worked_on_processors(result) for result in results)
    if not lacking:
        told = "CPU s: seconds that the processors of the sites worked in training, all sites and rounds."
        return Spent("CPU s", told, lambda result: result.processor_seconds, decimal)
    told = (
        "Training time is wall clock, which grows with all else that a machine does at the time: "
        f"{lacking} of {plural(len(results), 'cell')} did not measure the processor's, or worked on a GPU."
    )
    return Spent("Training time (wall clock)", told, lambda result: result.train_seconds, seconds)


def _worked_on_processors(result: Result) -> bool:
    """Of a cell on a GPU the processor's seconds are those of waiting for it."""
    return result.processor_seconds is not None and result.made.get("device") in (None, "cpu")

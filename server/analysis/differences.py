"""What sets two methods apart: their paired difference over seeds and clusters, where their predictions allow one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Metric
from fedrecon_core.registry import METRICS
from fedrecon_core.seeding import numpy_stream
from server.analysis.bootstrap import Interval, cluster_weights, paired_interval
from server.analysis.prediction_counts import Answers, check_scores, read_answers
from server.analysis.prediction_errors import Refusal, RefusedError, merged
from server.analysis.results import Result
from server.sweep.parameters import SEED

STREAM = 0
"""The seed of all resamples: a table made again is the same table."""
Clusters = tuple[int, ...]
Pair = tuple[Result, Result]


@dataclass(frozen=True)
class Difference:
    """The mean over ``seeds`` of the first method's score less the second's, and how sure it is; without an
    ``interval``, ``refused`` says what does not allow one. ``adjusted``: the p-value by Holm's procedure over a family
    of comparisons."""

    mean: float
    seeds: int
    interval: Interval | None = None
    refused: Refusal | None = None
    adjusted: float | None = None

    @property
    def p(self) -> float | None:
        """The p-value of no difference; None of a single seed, which says nothing of others."""
        return self.interval.p if self.interval and self.seeds > 1 else None


class Differences:
    """Paired differences among the results of one sweep. Each run's predictions are read and resampled once."""

    def __init__(self) -> None:
        self._answers: dict[Path, Answers] = {}
        self._refused: dict[tuple[Path, str], Refusal | None] = {}
        self._weights: dict[Clusters, NDArray[np.float64]] = {}
        self._resampled: dict[tuple[Path, str, Clusters], NDArray[np.float64]] = {}

    def between(self, first: Sequence[Result], second: Sequence[Result], metric: str) -> Difference:
        """The score of ``first`` less that of ``second``, each a method's results over its seeds, paired by seed.

        It has no interval where predictions are missing, do not belong to the scores, or were asked other samples, or
        samples of one group; nor where the metric is none of answers alone (the loss, the AUROC).

        Raises:
            RefusedError: they have no seed in common.
        """
        pairs = _pairs(first, second, metric)
        observed = [one.scores[metric] - other.scores[metric] for one, other in pairs]
        mean = float(np.mean(observed))
        try:
            return Difference(mean, len(pairs), self._interval(pairs, observed, metric))
        except RefusedError as error:
            return Difference(mean, len(pairs), refused=error.refusal)

    def _interval(self, pairs: Sequence[Pair], observed: Sequence[float], metric: str) -> Interval:
        self._check(pairs, metric)
        clusters = self._clusters(pairs)
        resampled = [
            self._scores(one, metric, clusters) - self._scores(other, metric, clusters) for one, other in pairs
        ]
        try:
            return paired_interval(observed, np.stack(resampled), len(clusters))
        except ValueError as error:
            raise RefusedError(str(error)) from None

    def _check(self, pairs: Sequence[Pair], metric: str) -> None:
        """All cells with the first fault are named, not the first of them."""
        if found := merged(self._faults(pairs, metric)):
            raise RefusedError(found[0].why, *found[0].trials)

    def _faults(self, pairs: Sequence[Pair], metric: str) -> Iterator[Refusal]:
        scored = _metric(metric)
        for result in chain.from_iterable(pairs):
            key = result.directory, metric
            if key not in self._refused:  # the baseline stands in every comparison
                self._refused[key] = self._fault(result, metric, scored)
            if fault := self._refused[key]:
                yield fault

    def _fault(self, result: Result, metric: str, scored: type[Metric]) -> Refusal | None:
        try:
            self._read(result).score(scored)
            check_scores(self._read(result), {metric: result.scores[metric]}, result.directory.name)
        except RefusedError as error:
            return error.refusal
        except ValueError as error:
            return Refusal(f"it cannot be told from answers alone: {error}")
        return None

    def _clusters(self, pairs: Sequence[Pair]) -> Clusters:
        """Those of all seeds: where masks leave some samples of a cluster out in one seed, it is still the same one."""
        apart = [pair for pair in pairs if len({self._read(one).samples for one in pair}) > 1]
        if apart:
            beside = [f"{one.directory.name} beside {other.directory.name}" for one, other in apart]
            raise RefusedError("the two were asked different test samples", *beside)
        return tuple(sorted({cluster for one, _ in pairs for cluster in self._read(one).clusters}))

    def _read(self, result: Result) -> Answers:
        if result.directory not in self._answers:
            found = result.answers or read_answers(result.directory, result.target, result.classes)
            self._answers[result.directory] = found
        return self._answers[result.directory]

    def _scores(self, result: Result, metric: str, clusters: Clusters) -> NDArray[np.float64]:
        key = result.directory, metric, clusters
        if key not in self._resampled:
            answers = self._read(result)
            places = np.searchsorted(clusters, answers.clusters)
            self._resampled[key] = answers.scores(_metric(metric), self._drawn(clusters)[:, places])
        return self._resampled[key]

    def _drawn(self, clusters: Clusters) -> NDArray[np.float64]:
        """The same resamples for all runs, and all seeds, that are compared over these clusters."""
        if clusters not in self._weights:
            name = hashlib.sha256(repr(clusters).encode()).hexdigest()
            self._weights[clusters] = cluster_weights(len(clusters), numpy_stream(STREAM, "bootstrap", name))
        return self._weights[clusters]


def _pairs(first: Sequence[Result], second: Sequence[Result], metric: str) -> list[Pair]:
    """By seed; where the sweep has none, the one run of each. Both have the score."""
    others = {result.labels.get(SEED): result for result in second if metric in result.scores}
    pairs = [(one, others[seed]) for one in first if (seed := one.labels.get(SEED)) in others]
    if not pairs:
        raise RefusedError(f"no complete cell to compare it with has the same seed and a score {metric}")
    return pairs


def _metric(name: str) -> type[Metric]:
    if name not in METRICS.names():
        raise RefusedError(f"{name} cannot be told from predictions")
    found: type[Metric] = METRICS.get(name)
    return found

"""What sets two methods apart: their paired difference over seeds and clusters, where their predictions allow one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.errors import DataError
from fedrecon_core.metrics.base import Metric
from fedrecon_core.registry import METRICS
from fedrecon_core.seeding import numpy_stream
from server.comparison.answers import Answers, read_answers
from server.comparison.bootstrap import Interval, cluster_weights, paired_interval
from server.comparison.results import Result
from server.sweep.axes import SEED

STREAM = 0
"""The seed of all resamples: a table made again is the same table."""
SAME_SCORE = 1e-9
Clusters = tuple[int, ...]
Pair = tuple[Result, Result]


@dataclass(frozen=True)
class Difference:
    """The mean over ``seeds`` of the first method's score less the second's, and how sure it is; without an
    ``interval``, ``why`` says what does not allow one. ``adjusted``: the p-value by Holm's procedure over a family of
    comparisons."""

    mean: float
    seeds: int
    interval: Interval | None = None
    why: str = ""
    adjusted: float | None = None

    @property
    def p(self) -> float | None:
        """The p-value of no difference; None of a single seed, which says nothing of others."""
        return self.interval.p if self.interval and self.seeds > 1 else None


class Differences:
    """Paired differences among the results of one sweep. Each run's predictions are read and resampled once."""

    def __init__(self) -> None:
        self._answers: dict[Path, Answers] = {}
        self._weights: dict[Clusters, NDArray[np.float64]] = {}
        self._resampled: dict[tuple[Path, str, Clusters], NDArray[np.float64]] = {}

    def between(self, first: Sequence[Result], second: Sequence[Result], metric: str) -> Difference:
        """The score of ``first`` less that of ``second``, each a method's results over its seeds, paired by seed.

        It has no interval where predictions are missing, do not belong to the scores, or were asked other samples, or
        samples of one group; nor where the metric is none of answers alone (the loss, the AUROC).

        Raises:
            DataError: they have no seed in common.
        """
        pairs = _pairs(first, second, metric)
        observed = [one.scores[metric] - other.scores[metric] for one, other in pairs]
        mean = float(np.mean(observed))
        try:
            return Difference(mean, len(pairs), self._interval(pairs, observed, metric))
        except DataError as error:
            return Difference(mean, len(pairs), why=str(error))

    def _interval(self, pairs: Sequence[Pair], observed: Sequence[float], metric: str) -> Interval:
        clusters = self._clusters(pairs)
        resampled = [
            self._scores(one, metric, clusters) - self._scores(other, metric, clusters) for one, other in pairs
        ]
        try:
            return paired_interval(observed, np.stack(resampled), len(clusters))
        except ValueError as error:
            raise DataError(str(error)) from None

    def _clusters(self, pairs: Sequence[Pair]) -> Clusters:
        """Those of all seeds: where masks leave some samples of a cluster out in one seed, it is still the same one."""
        found: set[int] = set()
        for one, other in pairs:
            if self._read(one).samples != self._read(other).samples:
                raise DataError(f"{one.directory.name} and {other.directory.name} were asked different test samples")
            found.update(self._read(one).clusters)
        return tuple(sorted(found))

    def _read(self, result: Result) -> Answers:
        if result.directory not in self._answers:
            found = result.answers or read_answers(result.directory, result.target, result.classes)
            self._answers[result.directory] = found
        return self._answers[result.directory]

    def _scores(self, result: Result, metric: str, clusters: Clusters) -> NDArray[np.float64]:
        key = result.directory, metric, clusters
        if key not in self._resampled:
            answers, found = self._read(result), _metric(metric)
            _check_score(answers, found, result.scores[metric], result.directory)
            places = np.searchsorted(clusters, answers.clusters)
            self._resampled[key] = answers.scores(found, self._drawn(clusters)[:, places])
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
        raise DataError(f"no complete cell to compare it with has the same seed and a score {metric}")
    return pairs


def _metric(name: str) -> type[Metric]:
    if name not in METRICS.names():
        raise DataError(f"{name} cannot be told from predictions")
    found: type[Metric] = METRICS.get(name)
    return found


def _check_score(answers: Answers, metric: type[Metric], told: float, directory: Path) -> None:
    """Predictions that were copied from elsewhere, or belong to another attempt, must not speak for this run."""
    try:
        score = answers.score(metric)
    except ValueError as error:
        raise DataError(f"it cannot be told from answers alone: {error}") from None
    if abs(score - told) > SAME_SCORE:
        raise DataError(f"{directory}: its predictions score {score:.6f}, and its result says {told:.6f}")

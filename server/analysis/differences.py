"""Paired differences of two methods over seeds and groups of test samples, with their intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedrecon_core.registry import METRICS
from fedrecon_core.seeding import numpy_stream
from server.analysis.bootstrap import Interval, cluster_weights, paired_interval
from server.analysis.predictions import PredictionFault, Predictions, PredictionsError, check_scores, merged
from server.analysis.trials import METRICS as SCORES
from server.analysis.trials import PARAMS
from server.sweep.parameters import SEED

STREAM = 0
"""Seed of all resamples, so that a table is the same whenever it is made."""
Groups = tuple[int, ...]
Pair = tuple[str, str]
"""Two trials of the same seed."""


@dataclass(frozen=True)
class Difference:
    """Mean over ``seeds`` of the first method's score minus the second's.

    ``fault`` is the reason why there is no ``interval``, if there is none.
    """

    mean: float
    seeds: int
    interval: Interval | None = None
    fault: PredictionFault | None = None

    @property
    def p(self) -> float | None:
        """The p-value of the null hypothesis of no difference; None for a single seed."""
        return self.interval.p if self.interval and self.seeds > 1 else None


class Differences:
    """Paired differences among trials. The predictions of each trial are read and resampled once."""

    def __init__(self, trials: pd.DataFrame, predictions: Predictions) -> None:
        self._trials, self._predictions = trials, predictions
        self._faults: dict[tuple[str, str], PredictionFault | None] = {}
        self._weights: dict[Groups, NDArray[np.float64]] = {}
        self._resampled: dict[tuple[str, str, Groups], NDArray[np.float64]] = {}

    def between(self, first: Sequence[str], second: Sequence[str], metric: str) -> Difference:
        """Return the score of the trials ``first`` minus that of the trials ``second``, paired by seed.

        There is no interval if predictions are missing, do not match the scores, or are of different samples or of
        samples of a single group, or if the metric needs more than the predicted classes (the loss, the AUROC).

        Raises:
            PredictionsError: they have no seed in common.
        """
        scored = self._trials[SCORES + metric].notna()
        seeds = self._trials.get(PARAMS + SEED, pd.Series("", index=self._trials.index))  # no seed: one trial of each
        others = {seeds[trial]: trial for trial in second if scored[trial]}
        pairs = [(trial, others[seeds[trial]]) for trial in first if seeds[trial] in others]
        if not pairs:
            raise PredictionsError(f"no complete trial of the baseline has the same seed and a score {metric}")
        scores = self._trials[SCORES + metric]
        observed = [float(scores[one] - scores[other]) for one, other in pairs]
        mean = float(np.mean(observed))
        try:
            return Difference(mean, len(pairs), self._interval(pairs, observed, metric))
        except PredictionsError as error:
            return Difference(mean, len(pairs), fault=error.fault)

    def _interval(self, pairs: Sequence[Pair], observed: Sequence[float], metric: str) -> Interval:
        trials = [trial for pair in pairs for trial in pair]
        if metric not in METRICS.names():
            raise PredictionsError(f"{metric} cannot be computed from predictions")
        if found := merged(fault for trial in trials if (fault := self._fault(trial, metric))):
            raise PredictionsError(found[0].why, *found[0].trials)  # the first reason, with all trials that have it
        counts = {trial: self._predictions.counts(trial) for trial in trials}
        unlike = [pair for pair in pairs if counts[pair[0]].samples != counts[pair[1]].samples]
        if unlike:
            raise PredictionsError("their test samples differ", *(f"{one} against {other}" for one, other in unlike))
        # a group that the masks of one seed leave out is still the same group in the other seeds
        groups = tuple(sorted({group for one, _ in pairs for group in counts[one].groups}))
        resampled = [
            self._resample(one, metric, groups) - self._resample(other, metric, groups) for one, other in pairs
        ]
        try:
            return paired_interval(observed, np.stack(resampled), len(groups))
        except ValueError as error:
            raise PredictionsError(str(error)) from None

    def _fault(self, trial: str, metric: str) -> PredictionFault | None:
        """Return the reason why the predictions of ``trial`` allow no interval of ``metric``; None if they allow it."""
        if (trial, metric) not in self._faults:  # the baseline is part of every comparison
            self._faults[trial, metric] = None
            try:
                counts = self._predictions.counts(trial)
                counts.score(METRICS.get(metric))
                check_scores(counts, {metric: float(self._trials[SCORES + metric][trial])}, trial)
            except PredictionsError as error:
                self._faults[trial, metric] = error.fault
            except ValueError as error:
                self._faults[trial, metric] = PredictionFault(
                    f"the metric needs more than the predicted classes: {error}"
                )
        return self._faults[trial, metric]

    def _resample(self, trial: str, metric: str, groups: Groups) -> NDArray[np.float64]:
        """Return the metric in each resample, [D]; trials that are compared over ``groups`` share the resamples."""
        if groups not in self._weights:
            name = hashlib.sha256(repr(groups).encode()).hexdigest()
            self._weights[groups] = cluster_weights(len(groups), numpy_stream(STREAM, "bootstrap", name))
        key = trial, metric, groups
        if key not in self._resampled:
            counts = self._predictions.counts(trial)
            places = np.searchsorted(groups, counts.groups)
            self._resampled[key] = counts.resampled(METRICS.get(metric), self._weights[groups][:, places])
        return self._resampled[key]

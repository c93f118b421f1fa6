"""Confidence intervals of paired differences: two methods on the same seeds, scored on the same test samples.

Two things are random in such a comparison: the seeds, and the clusters of the test set (subjects, or source images of
which several samples are made). The variance of the mean difference has a part from each: that of seeds is computed
from the differences themselves, that of clusters by a bootstrap, which resamples the same clusters for both methods and
all seeds. Variance that seeds and clusters share is in both parts, so the sum is conservative, like that of the
pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)).

Interval and p-value are Student's, with the degrees of freedom of seeds or clusters, whichever are fewer. A percentile
bootstrap of three seeds, or of nine subjects, gives intervals that are far too narrow: where seeds vary more than
subjects, it rejects 6% of true null hypotheses with two seeds, and 4.5% with three, at a level of 0.002. A single seed
says nothing about other seeds; the interval then covers clusters only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The 95% interval of a mean difference, from ``low`` to ``high``, the two-sided p-value of no difference, and the
    number of test clusters."""

    low: float
    high: float
    p: float
    clusters: int


def cluster_weights(clusters: int, stream: np.random.Generator, draws: int = DRAWS) -> NDArray[np.float64]:
    """Float64 [draws, clusters]: how often each cluster is drawn in each resample of the test set."""
    return stream.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)


def paired_interval(observed: Sequence[float], resampled: NDArray[np.float64], clusters: int) -> Interval:
    """The interval of a mean difference.

    Args:
        observed: the difference for each of S seeds.
        resampled: float64 [S, D], the same differences in D resamples of the clusters.
        clusters: the number of clusters.

    Raises:
        ValueError: there is only one cluster, so that its variance is unknown.
    """
    if clusters < 2:
        raise ValueError("expected test samples of at least two groups, found one")
    from scipy.special import stdtr, stdtrit  # late: most commands do not need it

    mean, seeds = float(np.mean(observed)), len(observed)
    of_seeds = float(np.var(observed, ddof=1)) / seeds if seeds > 1 else 0.0
    of_clusters = float(resampled.mean(axis=0).var(ddof=1)) * clusters / (clusters - 1)
    error = math.sqrt(of_seeds + of_clusters)
    freedom = min(clusters - 1, seeds - 1) if seeds > 1 else clusters - 1
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error)) if error else float(mean == 0)
    return Interval(mean - reach, mean + reach, p, clusters)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family so that the chance of any false discovery in it is bounded (Holm 1979, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6): the k-th smallest of n
    values is multiplied by n - k + 1, and none is below the adjusted value of a smaller one."""
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, np.asarray(values)[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(scaled)
    return [float(value) for value in adjusted]

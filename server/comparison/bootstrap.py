"""How sure is a difference of two methods that were run on the same seeds and asked the same test samples?

Two things are drawn at random in such a comparison, and both are drawn anew here, independently of each other: the
seeds, as blocks, and the clusters of the test set (the subjects, or the source images of which several samples are
made), the same ones for both methods and for all seeds. This is the pigeonhole bootstrap (Owen 2007, "The pigeonhole
bootstrap", Annals of Applied Statistics 1(2)).

Of S seeds a bootstrap sees too little: the variance of resampled means is (S - 1) / S of what it should be, and the
tails are those of the normal distribution where Student's belong. Hesterberg (2015, "What Teachers Should Know About
the Bootstrap", The American Statistician 69(4)) takes wider quantiles; with three seeds no resample lies as far out as
that asks for, so that here the seeds are moved apart instead, by the factor of `stretch`. On simulated differences with
3 seeds, intervals that should hold the truth in 95% of cases did so in 71 to 94% without it and in 94 to 99% with it;
with 10 seeds in 90 to 94% and 91 to 95%. One seed says nothing of others: its interval is that of the clusters alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean over ``seeds`` of the first method's score less the second's, its 95% percentile interval, and the
    two-sided p-value of no difference; ``adjusted`` is that of Holm's procedure over a family of comparisons."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    adjusted: float | None = None


def cluster_weights(clusters: int, stream: np.random.Generator, draws: int = DRAWS) -> NDArray[np.float64]:
    """[draws, clusters]: how often each cluster stands in each resample of as many clusters as there are."""
    return stream.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)


def stretch(seeds: int) -> float:
    """sqrt(S / (S - 1)) times Student's quantile over the normal one: how far seeds are moved from their mean, so that
    few of them give intervals that are wide enough; 1 for a single one."""
    from scipy.special import ndtri, stdtrit  # here: commands that compare nothing stay quick

    if seeds < 2:
        return 1.0
    upper = (1 + LEVEL) / 2
    return math.sqrt(seeds / (seeds - 1)) * float(stdtrit(seeds - 1, upper) / ndtri(upper))


def paired_difference(
    observed: Sequence[float], resampled: NDArray[np.float64], stream: np.random.Generator
) -> Difference:
    """``observed`` [S]: the difference in each seed. ``resampled`` [S, D]: the same in D resamples of the clusters.

    The interval is between percentiles of the D means over resampled seeds; p = 2 min(P(mean <= 0), P(mean >= 0)),
    where the data count as one more resample (Davison and Hinkley 1997, "Bootstrap Methods and their Application",
    4.2).
    """
    seeds, draws = resampled.shape
    centre = resampled.mean(axis=0)
    apart = centre + stretch(seeds) * (resampled - centre)
    means = np.take_along_axis(apart, stream.integers(seeds, size=(seeds, draws)), axis=0).mean(axis=0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + draws))
    return Difference(float(np.mean(observed)), float(low), float(high), p, seeds)


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of a family, adjusted so that the chance of any false discovery in it is bounded (Holm 1979, "A
    simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6): the k-th smallest of
    n is multiplied by n - k + 1, and none is below a smaller one's."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted

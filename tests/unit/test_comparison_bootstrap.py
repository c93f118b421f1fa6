"""Differences and their certainty, against SciPy, by hand, and by how often the truth lies inside."""

import numpy as np
import pytest
from scipy import stats

from server.comparison.bootstrap import DRAWS, cluster_weights, holm, paired_difference, stretch

pytestmark = pytest.mark.quick


def stream(seed=0):
    return np.random.default_rng(seed)


def test_a_resample_has_as_many_clusters_as_there_are():
    weights = cluster_weights(7, stream())
    assert weights.shape == (DRAWS, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert abs(weights.mean(axis=0) - 1).max() < 0.1
    assert weights.var() == pytest.approx(6 / 7, abs=0.05)  # of a multinomial: n p (1 - p)


def test_over_clusters_alone_the_interval_is_that_of_scipy():
    values = stream(1).normal(0.3, 1.0, size=80)
    resampled = cluster_weights(80, stream(2)) @ values / 80
    ours = paired_difference([values.mean()], resampled[None], stream(3))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=stream(4))
    assert ours.mean == values.mean()
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    assert ours.seeds == 1


@pytest.mark.parametrize("seeds", [5, 10, 40])
def test_over_seeds_alone_the_interval_is_as_wide_as_students(seeds):
    widths = []
    for turn in range(30):
        values = stream(turn).normal(0.1, 0.5, size=seeds)
        ours = paired_difference(values, np.repeat(values[:, None], DRAWS, axis=1), stream(3))
        theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        widths.append((ours.high - ours.low) / (theirs.high - theirs.low))
    assert np.mean(widths) == pytest.approx(1, abs=0.06)


def test_seeds_are_moved_apart_the_more_the_fewer_they_are():
    assert stretch(1) == 1
    assert stretch(3) == pytest.approx((3 / 2) ** 0.5 * 4.302653 / 1.959964)
    assert stretch(1000) == pytest.approx(1, abs=0.003)


def crossed(seed, seeds=8, clusters=25, truth=0.2):
    """Differences [seeds, clusters] with an effect of each seed, of each cluster and of neither."""
    rng = stream(seed)
    ways = rng.normal(0, 0.3, size=(seeds, 1)), rng.normal(0, 0.5, size=(1, clusters))
    return truth + ways[0] + ways[1] + rng.normal(0, 0.3, size=(seeds, clusters))


@pytest.mark.parametrize("seeds", [3, 8])
def test_nineteen_of_twenty_intervals_hold_the_truth_where_both_seeds_and_clusters_vary(seeds):
    hits = 0
    for turn in range(200):
        values = crossed(turn, seeds)
        resampled = values @ cluster_weights(25, stream(1000 + turn), 500).T / 25
        found = paired_difference(values.mean(axis=1), resampled, stream(2000 + turn))
        hits += found.low <= 0.2 <= found.high
    assert 184 <= hits <= 198  # 190 are expected, give or take 3


def test_resampled_clusters_alone_would_be_too_sure():
    """What the seeds add: without them far fewer intervals hold the truth."""
    hits = 0
    for seed in range(200):
        values = crossed(seed).mean(axis=0)
        means = cluster_weights(25, stream(1000 + seed), 500) @ values / 25
        low, high = np.quantile(means, [0.025, 0.975])
        hits += low <= 0.2 <= high
    assert hits < 176


def test_a_p_value_counts_both_tails_and_is_never_zero():
    clear = paired_difference([1.0], np.ones((1, 999)), stream())
    assert clear.p == pytest.approx(2 / 1000)
    none = paired_difference([0.0], np.zeros((1, 999)), stream())
    assert none.p == 1.0
    half = paired_difference([0.0], np.repeat([-1.0, 1.0, 1.0, 1.0], 250)[None], stream())
    assert half.p == pytest.approx(2 * 251 / 1001)


@pytest.mark.parametrize(
    ("plain", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6, 0.001], [1.0, 1.0, 0.003]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(plain, adjusted):
    assert holm(plain) == pytest.approx(adjusted)

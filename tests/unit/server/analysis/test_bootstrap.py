"""Differences and their certainty, against SciPy, by hand, and by how often the truth lies inside."""

import numpy as np
import pytest
from scipy import stats

from server.analysis.bootstrap import DRAWS, cluster_weights, holm, paired_interval

pytestmark = pytest.mark.quick


def stream(seed=0):
    return np.random.default_rng(seed)


def test_a_resample_has_as_many_clusters_as_there_are():
    weights = cluster_weights(7, stream())
    assert weights.shape == (DRAWS, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert abs(weights.mean(axis=0) - 1).max() < 0.1
    assert weights.var() == pytest.approx(6 / 7, abs=0.05)  # of a multinomial: n p (1 - p)


def test_of_one_seed_interval_and_p_are_those_of_students_test_over_clusters():
    values = stream(1).normal(0.3, 1.0, size=30)
    resampled = cluster_weights(30, stream(2), 20_000) @ values / 30
    ours = paired_interval([values.mean()], resampled[None], 30)
    theirs = stats.ttest_1samp(values, 0.0)
    assert ours.clusters == 30
    assert ours.low == pytest.approx(theirs.confidence_interval().low, abs=0.01)
    assert ours.high == pytest.approx(theirs.confidence_interval().high, abs=0.01)
    assert ours.p == pytest.approx(theirs.pvalue, rel=0.1)


@pytest.mark.parametrize("values", [[1.7, 2.7, 3.7], [5.0, 6.0, 7.0], [1.0, 1.2], [0.3, -0.1, 0.2, 0.4, 0.1]])
def test_where_seeds_alone_vary_interval_and_p_are_those_of_students_test_over_seeds(values):
    ours = paired_interval(values, np.repeat(np.array(values)[:, None], 100, axis=1), 1000)
    theirs = stats.ttest_1samp(values, 0.0)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert ours.p == pytest.approx(theirs.pvalue)


def crossed(seed, seeds, clusters, truth, spread=(0.3, 0.5, 0.3)):
    """Differences [seeds, clusters] with an effect of each seed, of each cluster and of neither."""
    rng = stream(seed)
    effects = [rng.normal(0, spread[0], (seeds, 1)), rng.normal(0, spread[1], (1, clusters))]
    return truth + sum(effects) + rng.normal(0, spread[2], size=(seeds, clusters))


WEIGHTS = {clusters: cluster_weights(clusters, stream(7), 300) for clusters in (9, 25)}


def compared(seed, seeds, clusters, truth, spread=(0.3, 0.5, 0.3)):
    values = crossed(seed, seeds, clusters, truth, spread)
    return paired_interval(values.mean(axis=1), values @ WEIGHTS[clusters].T / clusters, clusters)


@pytest.mark.parametrize("clusters", [9, 25])
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_nineteen_of_twenty_intervals_or_more_hold_the_truth(seeds, clusters):
    found = [compared(turn, seeds, clusters, 0.2) for turn in range(300)]
    hits = sum(one.low <= 0.2 <= one.high for one in found)
    assert hits >= 276  # 285 are expected, give or take 4; few seeds give more


@pytest.mark.parametrize("spread", [(0.3, 0.1, 0.1), (0.0, 0.5, 0.3)])
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_where_there_is_no_difference_small_p_values_are_as_rare_as_they_should_be(seeds, spread):
    p = np.array([compared(turn, seeds, 25, 0.0, spread).p for turn in range(1000)])
    for bound in (0.05, 0.01, 0.002):
        assert (p <= bound).sum() <= 1000 * bound + 3 * (1000 * bound) ** 0.5


def test_a_family_of_six_is_wrong_about_any_of_them_as_rarely_as_one_alone():
    wrong = 0
    for turn in range(300):
        p = [compared(100 * turn + rival, 3, 25, 0.0).p for rival in range(6)]
        wrong += min(holm(p)) <= 0.05
    assert wrong <= 15 + 3 * 15**0.5


def test_ten_seeds_find_what_is_there():
    assert sum(compared(turn, 10, 25, 0.6).p <= 0.05 for turn in range(100)) > 80


def test_one_cluster_says_nothing():
    with pytest.raises(ValueError, match="test samples of at least two groups, found one"):
        paired_interval([0.1, 0.2], np.zeros((2, 10)), 1)


def test_no_difference_at_all_has_a_p_of_one():
    found = paired_interval([0.0, 0.0], np.zeros((2, 10)), 5)
    assert (found.low, found.high, found.p) == (0, 0, 1)


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

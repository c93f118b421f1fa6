"""Predictions: counts by group, resampled scores, scores of some samples, and the calibration of intervals.

References are scikit-learn, pandas and SciPy on the rows themselves.
"""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fedrecon_core.registry import CORE_PACKAGES, METRICS, discover
from server.analysis.bootstrap import DRAWS, cluster_weights, holm, paired_interval
from server.analysis.predictions import Predictions, PredictionsError, not_empty
from server.analysis.results import load_results
from server.analysis.trials import Sweep
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)


def trials_of(table, key):
    """The trials of one cell."""
    return table.trials.loc[list(table.cell(key)["trials"])]


class OneTrial(Sweep):
    """A sweep of one trial, whose directory is that of the sweep."""

    def directory_of(self, trial):
        return self.directory


def count_in(folder, target, classes, rows=not_empty):
    """Count the predictions of the trial in ``folder``."""
    trials = pd.DataFrame({"target": [target], "classes": [float(classes)]}, index=[folder.name])
    return Predictions(OneTrial(folder, "toy", {}, {}, trials), rows).counts(folder.name)


@pytest.fixture
def rows():
    rng = np.random.default_rng(5)
    plain = {"id": np.arange(90), "group": rng.integers(100, 112, size=90), "label": rng.integers(4, size=90)}
    return pd.DataFrame({**plain, "predicted": rng.integers(4, size=90), "has_a": True})


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        ("uar", lambda rows: balanced_accuracy_score(rows["label"], rows["predicted"])),
        ("macro_f1", lambda rows: f1_score(rows["label"], rows["predicted"], average="macro", zero_division=0)),
        ("accuracy", lambda rows: (rows["label"] == rows["predicted"]).mean()),
    ],
)
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_a_resample_scores_as_its_rows_do(rows, tmp_path, metric, theirs):
    rows.to_parquet(tmp_path / "predictions.parquet")
    counts = count_in(tmp_path, "multiclass", 4)
    assert counts.groups == tuple(sorted(set(rows["group"])))
    assert counts.score(METRICS.get(metric)) == pytest.approx(theirs(rows))
    weights = cluster_weights(len(counts.groups), np.random.default_rng(0), 20)
    for weight, found in zip(weights, counts.resampled(METRICS.get(metric), weights), strict=True):
        times = dict(zip(counts.groups, weight.astype(int), strict=True))
        drawn = rows.loc[rows.index.repeat(rows["group"].map(times))]
        assert found == pytest.approx(theirs(drawn))


def test_labels_of_which_a_sample_has_many(tmp_path):
    rng = np.random.default_rng(6)
    truth, predict = rng.integers(2, size=(2, 50, 3))
    lists = [[np.flatnonzero(row) for row in table] for table in (truth, predict)]
    rows = pd.DataFrame({"id": range(50), "group": np.arange(50) // 5, "label": lists[0], "predicted": lists[1]})
    rows.to_parquet(tmp_path / "predictions.parquet")
    counts = count_in(tmp_path, "multilabel", 3)
    assert counts.score(METRICS.get("macro_f1")) == pytest.approx(f1_score(truth, predict, average="macro"))
    weights = cluster_weights(10, np.random.default_rng(0), 10)
    for weight, found in zip(weights, counts.resampled(METRICS.get("macro_f1"), weights), strict=True):
        drawn = np.repeat(np.arange(50), np.repeat(weight.astype(int), 5))
        assert found == pytest.approx(f1_score(truth[drawn], predict[drawn], average="macro", zero_division=0))
    with pytest.raises(ValueError, match="macro_auroc needs the scores"):
        counts.score(METRICS.get("macro_auroc"))


def test_two_runs_were_asked_the_same_if_ids_groups_and_labels_are_the_same(rows, tmp_path):
    def asked(name, table):
        (tmp_path / name).mkdir()
        table.to_parquet(tmp_path / name / "predictions.parquet")
        return count_in(tmp_path / name, "multiclass", 4).samples

    first = asked("first", rows)
    assert asked("other-counts", rows.assign(predicted=0)) == first
    assert asked("other-ids", rows.assign(id=rows["id"] + 1)) != first
    assert asked("other-groups", rows.assign(group=7)) != first
    assert asked("other-labels", rows.assign(label=0)) != first


def answer(label, predicted):
    """What writes a file of predictions: one sample of one group."""
    return pd.DataFrame({"id": [1], "group": [1], "label": [label], "predicted": [predicted]}).to_parquet


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), r"no predictions\.parquet \(cell\)"),
        (lambda path: path.write_bytes(b"PAR1 no"), "is damaged "),
        (lambda path: pd.DataFrame({"id": [1]}).to_parquet(path), "is damaged "),
        (answer(9, 0), r"is damaged \(cell: ValueError: expected classes from 0 to 3, found 9\)"),
        (answer(3, -1), r"is damaged \(cell: ValueError: expected classes from 0 to 3, found -1\)"),
        (answer(-4, 3), r"is damaged \(cell: ValueError: expected classes from 0 to 3, found -4\)"),
        (answer(1, 1.5), r"is damaged \(cell: TypeError: expected whole numbers for classes, found float64\)"),
    ],
)
def test_what_cannot_be_read_is_told_without_a_path(rows, tmp_path, spoil, words):
    path = tmp_path / "cell" / "predictions.parquet"
    path.parent.mkdir()
    rows.to_parquet(path)
    spoil(path)
    with pytest.raises(PredictionsError, match=words) as caught:
        count_in(tmp_path / "cell", "multiclass", 4)
    assert str(tmp_path) not in str(caught.value)


def test_of_many_labels_none_is_counted_from_the_end(tmp_path):
    answer([0, 2], [-1])(tmp_path / "predictions.parquet")
    with pytest.raises(PredictionsError, match="expected classes from 0 to 2, found -1"):
        count_in(tmp_path, "multilabel", 3)


def test_the_share_that_is_missing_is_that_of_the_rows_that_count(rows, tmp_path):
    rows["has_b"] = rows["id"] % 3 == 0
    rows.to_parquet(tmp_path / "predictions.parquet")
    assert count_in(tmp_path, "multiclass", 4).missing == pytest.approx(1 / 3)
    part = count_in(tmp_path, "multiclass", 4, lambda table: table["id"].to_numpy() % 3 > 0)
    assert part.missing == pytest.approx(1 / 2)


# --- scores of the samples that have certain modalities -------------------------------------------------------------


PARAMETERS = {"recovery": ["zero", "mask"], "seed": ["1", "2", "3"]}
TABLE = {"rows": ["recovery"], "metrics": ["uar", "accuracy"], "baseline": {"recovery": "zero"}}


def predict(labels):
    return right_with({"zero": 0.3, "mask": 0.6}[labels["recovery"]], int(labels["seed"]))


@pytest.fixture
def sweep(tmp_path):
    """Of 60 samples 20 show `a` alone, 20 `b` alone, and 20 both."""
    folder = write_results(tmp_path / "sweep", PARAMETERS, predict, **TABLE)
    for path in folder.glob("cells/*/predictions.parquet"):
        rows = pd.read_parquet(path)
        rows.assign(has_a=rows["id"] % 3 != 1, has_b=rows["id"] % 3 != 0).to_parquet(path)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(("shown", "kept"), [("a", {0}), ("b", {1}), ("1", {0, 1}), ("2", {2}), ("b, a", {2})], ids=str)
def test_scores_and_differences_are_those_of_the_samples_that_show_it(sweep, shown, kept):
    uar, accuracy = load_results(sweep, shown=shown).compared_tables()
    expected = {}
    for recovery in PARAMETERS["recovery"]:
        rows = [pd.read_parquet(sweep / "cells" / f"{recovery}-{seed}" / "predictions.parquet") for seed in "123"]
        own = [one[(one["id"] % 3).isin(kept)] for one in rows]
        expected[recovery] = [balanced_accuracy_score(one["label"], one["predicted"]) for one in own]
        place = PARAMETERS["recovery"].index(recovery), 0
        assert trials_of(uar, place)["metrics.uar"].tolist() == pytest.approx(expected[recovery])
        assert trials_of(accuracy, place)["metrics.accuracy"].tolist() == pytest.approx(
            [accuracy_score(one["label"], one["predicted"]) for one in own]
        )
    cell = uar.cell((1, 0))
    assert cell["difference"] == pytest.approx(np.mean(expected["mask"]) - np.mean(expected["zero"]))
    assert cell["difference_low"] < cell["difference"] < cell["difference_high"]


def test_the_table_says_what_it_is_of_and_shows_nothing_published(sweep, call, tmp_path):
    (tmp_path / "published.csv").write_text("recovery,metric,value\nmask,uar,51.25\n")
    reference = "--set", f"reference={tmp_path / 'published.csv'}"
    assert "[51.25]" in call("table", sweep, *reference)[1]
    code, out, _ = call("table", sweep, *reference, "--shown", "a")
    assert code == 0
    assert out.count("Scores and test missing rates are computed on the test samples that show a alone.") == 2
    assert "[51.25]" not in out


def test_a_trial_without_predictions_has_no_such_score(sweep, call):
    (sweep / "cells" / "mask-2" / "predictions.parquet").unlink()
    assert "Complete, and without this score: mask-2." in call("table", sweep, "--shown", "1")[1]


def test_predictions_of_another_run_have_no_such_score_and_the_trials_are_named(sweep, call):
    """Of a part no result says what it scores, so that all of the rows have to answer for it."""
    trials = sweep / "cells"
    for seed in "12":
        copied = (trials / f"mask-{seed}" / "predictions.parquet").read_bytes()
        (trials / f"zero-{seed}" / "predictions.parquet").write_bytes(copied)
    (uar, _) = load_results(sweep, shown="1").compared_tables()
    assert trials_of(uar, (0, 0))["params.seed"].tolist() == ["3"]
    code, out, _ = call("table", sweep, "--shown", "1")
    assert code == 0
    expected = r"Not scored: the scores of the predictions differ from those in result.json \((.*)\)\.\n"
    ((named),) = re.findall(expected, out)
    assert re.fullmatch(
        r"zero-1: accuracy 0\.\d+ instead of 0\.\d+ and zero-2: accuracy 0\.\d+ instead of 0\.\d+", named
    )
    assert "Complete, and without this score: zero-1 and zero-2." in out
    assert "Not scored" not in call("table", sweep)[1]


def test_predictions_of_no_class_have_no_such_score(sweep, call):
    path = sweep / "cells" / "mask-2" / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows.assign(predicted=rows["predicted"].replace(2, -1)).to_parquet(path)
    out = call("table", sweep, "--shown", "1")[1]
    expected = "predictions.parquet is damaged (mask-2: ValueError: expected classes from 0 to 2, found -1)."
    assert f"Not scored: {expected}" in out


def test_why_no_trial_has_such_predictions_is_told(sweep, call):
    for path in sweep.glob("cells/*/predictions.parquet"):
        path.unlink()
    words = "that show 1 modality; no predictions.parquet (zero-1, zero-2, zero-3, mask-1, mask-2 and mask-3)"
    refused(call("table", sweep, "--shown", "1"), words)


@pytest.mark.parametrize(("shown", "missing"), [("a", 0.5), ("1", 0.5), ("2", 0)])
def test_what_is_missing_in_test_is_that_of_the_samples_that_are_scored(sweep, call, tmp_path, shown, missing):
    _, out, _ = call("table", sweep, "--shown", shown, "--out", tmp_path / "out")
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [float(line["missing_test"]) for line in lines] == pytest.approx(4 * [missing])
    assert [float(line["missing_train"]) for line in lines] == pytest.approx(4 * [0.4])
    assert f"| 3 | 40.0% | {missing:.1%} |" in out
    assert "Scores and test missing rates are computed on the test samples that show " in out
    assert "| 3 | 40.0% | 30.0% |" in call("table", sweep)[1]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("c", "no complete trial has predictions of test samples that show c alone"),
        ("3", "no complete trial has predictions of test samples that show 3 modalities"),
        ("0", "expected a number of modalities (1 or more), or names of modalities, found '0'"),
        ("a,", "expected a number of modalities (1 or more), or names of modalities, found 'a,'"),
    ],
)
def test_what_no_sample_shows_is_one_line(sweep, call, shown, words):
    refused(call("table", sweep, "--shown", shown), f"--shown: {words}")


# --- differences and their intervals --------------------------------------------------------------------------------


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

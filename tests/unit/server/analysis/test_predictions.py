"""Predictions counted by group, and what scores become of resamples, against scikit-learn on the rows themselves."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from fedrecon_core.registry import CORE_PACKAGES, METRICS, discover
from server.analysis.bootstrap import cluster_weights
from server.analysis.predictions import Predictions, PredictionsError, not_empty
from server.analysis.trials import Sweep

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)


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
    truth, said = rng.integers(2, size=(2, 50, 3))
    lists = [[np.flatnonzero(row) for row in table] for table in (truth, said)]
    rows = pd.DataFrame({"id": range(50), "group": np.arange(50) // 5, "label": lists[0], "predicted": lists[1]})
    rows.to_parquet(tmp_path / "predictions.parquet")
    counts = count_in(tmp_path, "multilabel", 3)
    assert counts.score(METRICS.get("macro_f1")) == pytest.approx(f1_score(truth, said, average="macro"))
    weights = cluster_weights(10, np.random.default_rng(0), 10)
    for weight, found in zip(weights, counts.resampled(METRICS.get("macro_f1"), weights), strict=True):
        drawn = np.repeat(np.arange(50), np.repeat(weight.astype(int), 5))
        assert found == pytest.approx(f1_score(truth[drawn], said[drawn], average="macro", zero_division=0))
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

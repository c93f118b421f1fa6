"""Scores of the test samples that show certain modalities, against the same rows by pandas and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from server.comparison.material import gather
from tests.toys.command import caller, refused
from tests.toys.sweep_results import right_with, write_results

pytestmark = pytest.mark.quick
AXES = {"recovery": ["zero", "mask"], "seed": ["1", "2", "3"]}
TABLE = {"rows": ["recovery"], "metrics": ["uar", "accuracy"], "baseline": {"recovery": "zero"}}


def said(labels):
    return right_with({"zero": 0.3, "mask": 0.6}[labels["recovery"]], int(labels["seed"]))


@pytest.fixture
def sweep(tmp_path):
    """Of 60 samples 20 show `a` alone, 20 `b` alone, and 20 both."""
    folder = write_results(tmp_path / "sweep", AXES, said, **TABLE)
    for path in folder.glob("cells/*/predictions.parquet"):
        rows = pd.read_parquet(path)
        rows.assign(has_a=rows["id"] % 3 != 1, has_b=rows["id"] % 3 != 0).to_parquet(path)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(("shown", "kept"), [("a", {0}), ("b", {1}), ("1", {0, 1}), ("2", {2}), ("b, a", {2})], ids=str)
def test_scores_and_differences_are_those_of_the_samples_that_show_it(sweep, shown, kept):
    uar, accuracy = gather(sweep, shown=shown).compared()
    expected = {}
    for recovery in AXES["recovery"]:
        rows = [pd.read_parquet(sweep / "cells" / f"{recovery}-{seed}" / "predictions.parquet") for seed in "123"]
        own = [one[(one["id"] % 3).isin(kept)] for one in rows]
        expected[recovery] = [balanced_accuracy_score(one["label"], one["predicted"]) for one in own]
        place = AXES["recovery"].index(recovery), 0
        assert uar.entries[place].scores == pytest.approx(expected[recovery])
        assert accuracy.entries[place].scores == pytest.approx(
            [accuracy_score(one["label"], one["predicted"]) for one in own]
        )
    difference = uar.entries[1, 0].difference
    assert difference.mean == pytest.approx(np.mean(expected["mask"]) - np.mean(expected["zero"]))
    assert difference.interval.low < difference.mean < difference.interval.high


def test_the_table_says_what_it_is_of_and_shows_nothing_published(sweep, call, tmp_path):
    (tmp_path / "published.csv").write_text("recovery,metric,value\nmask,uar,51.25\n")
    reference = "--set", f"reference={tmp_path / 'published.csv'}"
    assert "[51.25]" in call("table", sweep, *reference)[1]
    code, out, _ = call("table", sweep, *reference, "--shown", "a")
    assert code == 0
    assert out.count("Only of the test samples that show a alone.") == 2
    assert "[51.25]" not in out


def test_a_cell_without_predictions_has_no_such_score(sweep, call):
    (sweep / "cells" / "mask-2" / "predictions.parquet").unlink()
    assert "Complete, and without this score: mask-2." in call("table", sweep, "--shown", "1")[1]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("c", "no complete cell has predictions of test samples that show c alone"),
        ("3", "no complete cell has predictions of test samples that show 3 modalities"),
        ("0", "expected a number of modalities from 1 on, or names of some, found '0'"),
        ("a,", "expected a number of modalities from 1 on, or names of some, found 'a,'"),
    ],
)
def test_what_no_sample_shows_is_one_line(sweep, call, shown, words):
    refused(call("table", sweep, "--shown", shown), f"--shown: {words}")

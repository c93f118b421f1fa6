"""Scores of the test samples that show certain modalities, against the same rows by pandas and scikit-learn."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from server.analysis.results import load_results
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results

pytestmark = pytest.mark.quick
PARAMETERS = {"recovery": ["zero", "mask"], "seed": ["1", "2", "3"]}
TABLE = {"rows": ["recovery"], "metrics": ["uar", "accuracy"], "baseline": {"recovery": "zero"}}


def said(labels):
    return right_with({"zero": 0.3, "mask": 0.6}[labels["recovery"]], int(labels["seed"]))


@pytest.fixture
def sweep(tmp_path):
    """Of 60 samples 20 show `a` alone, 20 `b` alone, and 20 both."""
    folder = write_results(tmp_path / "sweep", PARAMETERS, said, **TABLE)
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
        assert uar.trials_of(place)["metrics.uar"].tolist() == pytest.approx(expected[recovery])
        assert accuracy.trials_of(place)["metrics.accuracy"].tolist() == pytest.approx(
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
    assert out.count("Only of the test samples that show a alone.") == 2
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
    assert uar.trials_of((0, 0))["params.seed"].tolist() == ["3"]
    code, out, _ = call("table", sweep, "--shown", "1")
    assert code == 0
    told = r"Not scored: the scores of the predictions differ from those in result.json \((.*)\)\.\n"
    ((named),) = re.findall(told, out)
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
    told = "predictions.parquet is damaged (mask-2: ValueError: expected classes from 0 to 2, found -1)."
    assert f"Not scored: {told}" in out


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
    assert "What is missing in test is theirs, too." in out
    assert "| 3 | 40.0% | 30.0% |" in call("table", sweep)[1]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("c", "no complete trial has predictions of test samples that show c alone"),
        ("3", "no complete trial has predictions of test samples that show 3 modalities"),
        ("0", "expected a number of modalities from 1 on, or names of some, found '0'"),
        ("a,", "expected a number of modalities from 1 on, or names of some, found 'a,'"),
    ],
)
def test_what_no_sample_shows_is_one_line(sweep, call, shown, words):
    refused(call("table", sweep, "--shown", shown), f"--shown: {words}")

"""Metrics from confusion matrices against scikit-learn on the labels themselves."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from fedrecon_core.local.evaluate import Predictions
from fedrecon_core.metrics.accuracy import Accuracy
from fedrecon_core.metrics.base import (
    Counts,
    Metric,
    all_metrics,
    applicable,
    higher_is_better,
    is_percentage,
    metric_title,
    shown_metrics,
)
from fedrecon_core.registry import METRICS
from tests.helpers.contract_support import restored
from tests.helpers.toy import everything, toy_site

pytestmark = pytest.mark.quick


def reference(labels, guesses) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are only predicted
        return {
            "accuracy": accuracy_score(labels, guesses),
            "uar": balanced_accuracy_score(labels, guesses),
            "macro_f1": f1_score(labels, guesses, average="macro"),
        }


def confusion_of(labels, guesses, classes: int) -> np.ndarray:
    return confusion_matrix(labels, guesses, labels=range(classes))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 7])
def test_metrics_equal_scikit_learns(seed, classes):
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=60)
    guesses = np.where(draw.random(60) < 0.5, labels, draw.integers(classes, size=60))
    found = all_metrics(Counts(confusion_of(labels, guesses, classes)))
    assert {name: found[name] for name in ("accuracy", "uar", "macro_f1")} == pytest.approx(reference(labels, guesses))


@pytest.mark.parametrize(
    ("labels", "guesses"),
    [([0, 0, 1], [0, 1, 1]), ([0, 0, 0], [1, 1, 1]), ([2, 2], [2, 2]), ([0, 1, 1, 3], [3, 3, 1, 0])],
    ids=["class 2 and 3 absent", "all wrong", "one class alone", "some predicted only"],
)
def test_classes_that_do_not_occur_do_not_count(labels, guesses):
    found = all_metrics(Counts(confusion_of(labels, guesses, 4)))
    assert {name: found[name] for name in ("accuracy", "uar", "macro_f1")} == pytest.approx(reference(labels, guesses))


@pytest.mark.parametrize("name", applicable("multiclass"))
def test_an_empty_matrix_gives_zero(name):
    assert METRICS.get(name).compute(Counts(np.zeros((3, 3), dtype=np.int64))) == 0.0


def test_pooling_matrices_is_scoring_all_samples_together():
    draw = np.random.default_rng(1)
    labels, guesses = draw.integers(3, size=(2, 40))
    parts = [Counts(confusion_of(labels[part], guesses[part], 3)) for part in (slice(0, 7), slice(7, 40))]
    assert all_metrics(parts[0] + parts[1])["uar"] == pytest.approx(reference(labels, guesses)["uar"])


def test_a_score_counts_samples_with_nothing_apart():
    present = everything(48)
    present[::4] = False
    data = toy_site(present=present)
    logits = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    score = Predictions(logits).score(data)
    labels, guesses, some = data.labels.numpy(), logits.argmax(1).numpy(), present.any(axis=1)
    assert np.array_equal(score.counts.confusion, confusion_of(labels[some], guesses[some], 3))
    assert np.array_equal(score.empty.confusion, confusion_of(labels[~some], guesses[~some], 3))
    logs = logits.double().log_softmax(1).numpy()
    assert score.loss_sum == pytest.approx(-logs[np.arange(48), labels][some].sum())


def test_scores_add_up():
    data = toy_site()
    score = Predictions(torch.randn(48, 3)).score(data)
    double = score + score
    assert np.array_equal(double.counts.confusion, 2 * score.counts.confusion)
    assert double.loss_sum == pytest.approx(2 * score.loss_sum)


class ErrorRate(Metric):
    """The share of wrong predictions, shown as a number."""

    title, explanation = "Error rate", "share of wrong predictions"
    higher_is_better, percentage = False, False

    @staticmethod
    def compute(counts: Counts) -> float:
        return 1 - Accuracy.compute(counts) if counts.samples else 0.0


def test_a_metric_declares_how_it_is_shown():
    with restored(METRICS):
        METRICS.register("error_rate")(ErrorRate)
        METRICS.register("plain")(type("Plain", (ErrorRate,), {"title": ""}))
        assert list(shown_metrics())[:4] == ["accuracy", "uar", "macro_f1", "macro_auroc"]
        assert {"error_rate", "plain"} <= set(list(shown_metrics())[4:])
        assert [metric_title(name) for name in ("uar", "error_rate", "plain")] == ["UAR", "Error rate", "Plain"]
        assert not is_percentage("error_rate") and not higher_is_better("error_rate")
    assert (metric_title("loss"), is_percentage("loss"), higher_is_better("loss")) == ("Loss", False, False)
    assert (metric_title("my_own"), is_percentage("my_own"), higher_is_better("my_own")) == ("My own", True, True)


def test_explanations_name_chance_and_the_kind_of_labels():
    accuracy, uar = METRICS.get("accuracy"), METRICS.get("uar")
    assert uar.explain("multiclass", 8).endswith("; chance is 12%") and "chance" not in uar.explain("multiclass", 0)
    assert accuracy.explain("multilabel", 3) != accuracy.explain("multiclass", 3) == accuracy.explanation

"""Every registered modality kind, fusion, metric and partition against its contract; new files need no edit here."""

import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fedrecon_core.registry import CORE_PACKAGES, FUSIONS, METRICS, MODALITIES, PARTITIONS, discover
from tests.contract import fusion_checks, metric_checks, modality_checks, partition_checks

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)

PARTS = [
    (MODALITIES, modality_checks.CHECKS),
    (FUSIONS, fusion_checks.CHECKS),
    (METRICS, metric_checks.CHECKS),
    (PARTITIONS, partition_checks.CHECKS),
]
CASES = [
    pytest.param(name, check, id=f"{name}-{check.__name__.removeprefix('check_')}")
    for registry, checks in PARTS
    for name in registry.names()
    for check in checks
]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_part(name, check):
    check(name)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("name", ["accuracy", "uar", "macro_f1"])
def test_metrics_are_those_of_scikit_learn(name):
    reference = {
        "accuracy": accuracy_score,
        "uar": balanced_accuracy_score,
        "macro_f1": lambda true, predicted: f1_score(true, predicted, average="macro", zero_division=0),
    }[name]
    for confusion in metric_checks.matrices():
        cells = [(t, p) for t in range(4) for p in range(4) for _ in range(int(confusion[t, p]))]
        true, predicted = zip(*cells, strict=True)
        assert metric_checks.compute(name, confusion) == pytest.approx(reference(true, predicted))

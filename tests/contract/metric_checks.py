"""Contract of every metric. Each check takes a registered name and tries the targets that the metric applies to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrecon_core.metrics.base import (
    Counts,
    all_metrics,
    higher_is_better,
    is_percentage,
    metric_title,
    shown_metrics,
)
from fedrecon_core.registry import METRICS
from fedrecon_core.task.target import TARGETS

CLASSES = 4


def metric_of(name: str) -> Any:
    """The metric called ``name``."""
    return METRICS.get(name)


def compute(name: str, confusion: NDArray[np.int64]) -> float:
    """The metric ``name`` of the multiclass matrix ``confusion``."""
    value: float = metric_of(name).compute(Counts(confusion))
    return value


def matrices() -> list[NDArray[np.int64]]:
    """Random confusion matrices; in some of them classes do not occur."""
    draw = np.random.default_rng(0)
    made = [draw.integers(0, 9, size=(CLASSES, CLASSES)) for _ in range(8)]
    for index, confusion in enumerate(made[4:]):
        confusion[index] = 0
    return made


def labelled() -> list[tuple[Tensor, Tensor]]:
    """Random multilabel (logits, labels), some with tied scores; in some of them a class does not occur."""
    draw, made = torch.Generator().manual_seed(0), []
    for turn in range(8):
        logits = torch.randn(40, CLASSES, generator=draw).round(decimals=turn % 2 + 1)
        labels = (torch.rand(40, CLASSES, generator=draw) < 0.3).long()
        labels[:, turn % CLASSES] *= int(turn < CLASSES)
        made.append((logits, labels))
    return made


def counted(logits: Tensor, labels: Tensor) -> Counts:
    """Multilabel counts."""
    return TARGETS["multilabel"].count(logits, labels)


SOME = {
    "multiclass": lambda: [Counts(confusion) for confusion in matrices()],
    "multilabel": lambda: [counted(*case) for case in labelled()],
}
PERFECT = {
    "multiclass": lambda: [Counts(np.diag(cells)) for cells in ([3, 1, 4], [3, 0, 4])],
    "multilabel": lambda: [counted(9.0 * labels - 4, labels) for _, labels in labelled()[:CLASSES]],
}
NOTHING = {
    "multiclass": lambda: Counts(np.zeros((3, 3), dtype=np.int64)),
    "multilabel": lambda: counted(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)),
}


def cases(name: str) -> Iterator[Counts]:
    """Counts of every target that the metric applies to."""
    for target in metric_of(name).targets:
        yield from SOME[target]()


def check_applies_to_some_target(name: str) -> None:
    assert set(metric_of(name).targets) <= set(SOME)
    assert metric_of(name).targets


def check_is_a_number_and_a_percentage_a_share(name: str) -> None:
    for counts in cases(name):
        before = Counts(*(None if table is None else table.copy() for table in vars(counts).values()))
        value = metric_of(name).compute(counts)
        assert isinstance(value, float) and math.isfinite(value)
        assert 0 <= value <= 1 or not metric_of(name).percentage
        assert np.array_equal(counts.confusion, before.confusion)
        assert counts.histograms is None or np.array_equal(counts.histograms, before.histograms)


def check_many_at_once_are_what_they_are_one_by_one(name: str) -> None:
    for target in metric_of(name).targets:
        confusions = [replace(counts, histograms=None, logits=None, labels=None) for counts in SOME[target]()]
        confusions.append(Counts(np.zeros_like(confusions[0].confusion)))
        try:
            expected = [metric_of(name).compute(counts) for counts in confusions]
        except ValueError:  # it needs more than confusion matrices
            with pytest.raises(ValueError):
                metric_of(name).compute_each(np.stack([counts.confusion for counts in confusions]))
            continue
        found = metric_of(name).compute_each(np.stack([counts.confusion for counts in confusions]))
        assert found.dtype == np.float64
        assert found.tolist() == pytest.approx(expected, abs=1e-12, rel=0)


def check_perfect_is_best_and_nothing_is_0(name: str) -> None:
    for target in metric_of(name).targets:
        perfect = [metric_of(name).compute(counts) for counts in PERFECT[target]()]
        if metric_of(name).percentage:
            assert perfect == [float(metric_of(name).higher_is_better)] * len(perfect)
        assert metric_of(name).compute(NOTHING[target]()) == 0


def check_names_of_classes_do_not_matter(name: str) -> None:
    order = np.array([2, 0, 3, 1])
    for counts in cases(name):
        confusion = counts.confusion[order]
        turned = replace(
            counts,
            confusion=confusion[:, order] if counts.histograms is None else confusion,
            histograms=None if counts.histograms is None else counts.histograms[order],
        )
        assert abs(metric_of(name).compute(counts) - metric_of(name).compute(turned)) < 1e-12


def check_declares_how_it_is_shown(name: str) -> None:
    metric = metric_of(name)
    assert metric_title(name) and "\n" not in metric_title(name) + metric.explanation
    assert shown_metrics()[name] is metric
    assert (is_percentage(name), higher_is_better(name)) == (metric.percentage, metric.higher_is_better)
    for target in metric.targets:
        assert metric.explain(target, 0).startswith(metric.explain(target, CLASSES)[:5])


def check_is_one_of_all_metrics_of_its_targets_only(name: str) -> None:
    for target, made in SOME.items():
        found = all_metrics(made()[0])
        assert (name in found) == (target in metric_of(name).targets)
        if name in found:
            assert found[name] == metric_of(name).compute(made()[0])


def check_bounds_its_error_if_it_has_one(name: str) -> None:
    for counts in cases(name):
        error = metric_of(name).error(counts)
        assert error is None or 0 <= error <= 1
        assert all_metrics(counts).get(f"{name}_error") == error


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]

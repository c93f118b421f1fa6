"""What every metric promises. Each check takes a registered name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrecon_core.metrics.base import all_metrics
from fedrecon_core.registry import METRICS


def compute(name: str, confusion: Tensor) -> float:
    """The metric ``name`` of ``confusion``."""
    metric: Any = METRICS.get(name)
    value: float = metric.compute(confusion)
    return value


def matrices() -> list[Tensor]:
    """Random confusion matrices; in some of them classes do not occur."""
    draw = np.random.default_rng(0)
    made = [torch.from_numpy(draw.integers(0, 9, size=(4, 4))) for _ in range(8)]
    for index, confusion in enumerate(made[4:]):
        confusion[index] = 0
    return made


def check_is_a_number_from_0_to_1(name: str) -> None:
    for confusion in matrices():
        before = confusion.clone()
        value = compute(name, confusion)
        assert isinstance(value, float) and 0 <= value <= 1
        assert torch.equal(confusion, before)


def check_perfect_is_1_and_nothing_is_0(name: str) -> None:
    assert compute(name, torch.diag(torch.tensor([3, 1, 4]))) == 1
    assert compute(name, torch.diag(torch.tensor([3, 0, 4]))) == 1
    assert compute(name, torch.zeros(3, 3, dtype=torch.int64)) == 0


def check_names_of_classes_do_not_matter(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    for confusion in matrices():
        assert abs(compute(name, confusion) - compute(name, confusion[order][:, order])) < 1e-12


def check_stands_among_all_metrics(name: str) -> None:
    assert all_metrics(matrices()[0])[name] == compute(name, matrices()[0])


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]

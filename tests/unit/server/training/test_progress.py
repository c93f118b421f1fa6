"""What a person reads of a round."""

import io

import pytest
from rich.console import Console

from fedrecon_core.metrics.base import Metric
from fedrecon_core.registry import METRICS
from server.training.progress import PlainProgress

pytestmark = pytest.mark.quick

LINE = {"round": 2, "split": "validation", "n": 12, "loss": 0.5, "accuracy": 0.75, "uar": 0.7, "macro_f1": 0.6}


def shown(validation) -> str:
    text = io.StringIO()
    PlainProgress(Console(file=text, width=200), rounds=10).round_done(2, {"task": 1.25}, validation)
    return text.getvalue()


def test_a_round_shows_its_losses_and_every_metric():
    assert shown(LINE).startswith(
        "round  2/10  task loss 1.250  validation accuracy 0.750, macro_f1 0.600, uar 0.700  ETA"
    )


def test_a_round_without_evaluation_shows_its_losses_alone():
    assert "validation" not in shown(None)


def test_a_metric_that_was_added_is_shown_where_the_line_has_it():
    METRICS.register("worst")(type("Worst", (Metric,), {}))
    try:
        assert "uar 0.700, worst 0.100  " in shown({**LINE, "worst": 0.1})
        assert "worst" not in shown(LINE)
    finally:
        METRICS.forget("worst")

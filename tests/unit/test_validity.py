"""Replies that must not reach an average."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedrecon_core.local.loop import LocalResult
from fedrecon_core.state import TransferPlan
from server.validity import fault_of
from strategies import messages

pytestmark = pytest.mark.quick

STATE = {"w": torch.ones(2, 3), "b": torch.zeros(3)}
CURRENT = {"task.head": messages.pack_group(STATE), "task.extractor.a": messages.pack_group(STATE)}
PLAN = TransferPlan(("task.extractor.a", "task.head"), ("task.head",))


def reply(groups: dict[str, Any], counts: dict[str, int] | None = None) -> Any:
    counts = dict.fromkeys(groups, 5) if counts is None else counts
    return SimpleNamespace(content=messages.write_result(LocalResult(groups, counts, {}, {}, []), 5, 0.1))


def test_a_good_reply_has_no_fault() -> None:
    assert fault_of(reply({"task.head": STATE}), PLAN, CURRENT) is None


@pytest.mark.parametrize(
    ("groups", "counts", "words"),
    [
        ({"task.extractor.a": STATE}, None, "uploaded task.extractor.a, which its transfer plan does not hold"),
        ({"task.unheard": STATE}, None, "uploaded task.unheard"),
        ({"task.head": {"w": STATE["w"]}}, None, "expected the tensors"),
        ({"task.head": {**STATE, "b": torch.zeros(4)}}, None, "b: expected float32 (3,), found float32 (4,)"),
        ({"task.head": {**STATE, "b": torch.zeros(3).double()}}, None, "found float64"),
        ({"task.head": {**STATE, "b": torch.tensor([0.0, float("nan"), 1.0])}}, None, "b holds NaN or infinity"),
        ({"task.head": {**STATE, "w": torch.full((2, 3), float("inf"))}}, None, "w holds NaN or infinity"),
        ({"task.head": STATE}, {"task.head": 0}, "expected a count above 0"),
        ({"task.head": STATE}, {"task.head": -3}, "found -3"),
        ({"task.head": STATE}, {}, "found None"),
    ],
)
def test_a_bad_reply_is_named(groups: dict[str, Any], counts: dict[str, int] | None, words: str) -> None:
    assert words in str(fault_of(reply(groups, counts), PLAN, CURRENT))


def test_a_reply_without_its_records_is_named() -> None:
    answer = reply({"task.head": STATE})
    del answer.content["quality"]
    assert "lacks the record 'quality'" in str(fault_of(answer, PLAN, CURRENT))

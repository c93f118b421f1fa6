"""Tiny runs give the same numbers as before: losses within 2%, scores within 0.03, bytes and counts exactly.

The tolerances leave room for other processors and library versions; a change of a method exceeds them. ``runs.py``
explains how the numbers are renewed.
"""

import pytest

from tests.golden.runs import RENEW, key, numbers, pairs, read_golden

LOSS, SCORE = {"rel": 0.02, "abs": 0.005}, {"rel": 0, "abs": 0.03}
SCORES = ("accuracy", "uar", "macro_f1")


def tolerant(line):
    """A line of metrics whose floats compare with their tolerance."""
    return {key: _tolerant(key, value) for key, value in line.items()}


def _tolerant(key, value):
    if key in SCORES:
        return pytest.approx(value, **SCORE)
    return pytest.approx(value, **LOSS) if key.startswith("loss") else value


@pytest.mark.parametrize(("recovery", "strategy"), pairs())
def test_run_gives_the_same_numbers(recovery, strategy, tmp_path):
    name, golden = key(recovery, strategy), read_golden()
    assert name in golden, (
        f"no golden numbers of {name} yet; write them: {RENEW} {recovery if strategy == 'fedavg' else strategy}"
    )
    expected, found = golden[name], numbers(recovery, strategy, tmp_path)
    assert (found["bytes_down"], found["bytes_up"]) == (expected["bytes_down"], expected["bytes_up"])
    assert found["metrics"] == [tolerant(line) for line in expected["metrics"]], f"if this change is intended: {RENEW}"


def test_every_golden_entry_belongs_to_a_run():
    assert set(read_golden()) == {key(*pair) for pair in pairs()}

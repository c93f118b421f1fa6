"""Tiny runs give the same numbers as before: losses within 2%, scores within 0.03, bytes and counts exactly.

The tolerances leave room for other processors and library versions; a change of the method shows. ``runs.py`` explains
how the numbers are renewed.
"""

import json

import pytest

from tests.golden.runs import FOLDER, RENEW, golden_file, numbers, pairs

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
    path = golden_file(recovery, strategy)
    assert path.exists(), (
        f"no golden numbers of {path.stem} yet; write them: {RENEW} {recovery if strategy == 'fedavg' else strategy}"
    )
    golden, found = json.loads(path.read_text(encoding="utf-8")), numbers(recovery, strategy, tmp_path)
    assert (found["bytes_down"], found["bytes_up"]) == (golden["bytes_down"], golden["bytes_up"])
    assert found["metrics"] == [tolerant(line) for line in golden["metrics"]], f"if this change is intended: {RENEW}"


def test_every_golden_file_belongs_to_a_run():
    assert {path.name for path in FOLDER.glob("*.json")} == {golden_file(*pair).name for pair in pairs()}

"""The sweeps whose results the documents show: each is a matrix of valid runs, wherever its data lie."""

from pathlib import Path

import pytest

from server.sweep.spec import read_definition
from server.sweep.trials import matrix

pytestmark = pytest.mark.quick
CONFIGS = Path(__file__).resolve().parents[4] / "configs"
TRIALS = {"results/recoveries": 395, "results/pairs": 48, "polydigits/recoveries": 80}


@pytest.mark.parametrize("name", TRIALS)
def test_it_has_the_trials_that_its_header_tells(name):
    path = CONFIGS / f"{name}.yaml"
    assert len(matrix(read_definition(path), path.parent)) == TRIALS[name]
    assert f"# {TRIALS[name]} trials" in path.read_text(encoding="utf-8")

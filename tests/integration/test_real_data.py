"""Real data, complete and in one place: the model must not be worse than a logistic regression on a few statistics.

The references of ``configs/real`` are trained as they stand; validation chooses the round, test is read once, by the
run itself.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.npz import read_npz
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import create_run
from tests.helpers import raw_polymnist, runs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CONFIGS = ROOT / "configs" / "real"
LIMIT = 15 * 60
"""Seconds that a run may take, with one worker of one thread."""


def there(name: str) -> Path:
    """A file of the real data."""
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not at ../shared/data")
    return DATA / name


def centralised(config: str, root: Path, out: Path) -> dict[str, Any]:
    """``result.json`` of a reference, trained on the data at ``root``."""
    prepared = create_run(CONFIGS / config, [f"data.root={root}"], out)
    assert prepared.config.sites.count == 1 and prepared.config.engine.workers == 1
    assert prepared.config.recovery.name == "mask" and prepared.config.strategy.name == "fedavg"
    assert all(getattr(prepared.config.missing, split).level == "none" for split in ("train", "validation", "test"))
    InProcess().run(Job.of(prepared))
    result = runs.result(out)
    print(f"\n{config}: {result['test']}, round {result['best_round']}, {result['wall_seconds']:.0f} s")
    return result


def statistics(values: np.ndarray) -> np.ndarray:
    """[N, 6 D] of windows [N, T, D]: per channel mean, deviation, least, largest, energy, mean absolute difference."""
    step = np.abs(np.diff(values, axis=1)).mean(axis=1)
    energy = (values**2).mean(axis=1)
    return np.concatenate(
        [values.mean(axis=1), values.std(axis=1), values.min(axis=1), values.max(axis=1), energy, step], axis=1
    )


def logistic_regression(dataset: Dataset) -> float:
    """Test accuracy of one on the standardised statistics, with scikit-learn's own strength. It chooses nothing, so
    that it may train on the validation windows too."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = np.concatenate([statistics(np.asarray(dataset.arrays[name])) for name in dataset.spec.names], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    train, test = np.flatnonzero(dataset.split < 2), dataset.members(2)
    return float(model.fit(inputs[train], dataset.labels[train]).score(inputs[test], dataset.labels[test]))


@pytest.mark.parametrize(
    ("config", "description", "file"),
    [
        ("hapt.yaml", CONFIGS / "hapt_npz.yaml", "hapt_ucihar.npz"),
        ("spsw.yaml", CONFIGS.parent / "har" / "spsw_npz.yaml", "spsw_har.npz"),
    ],
)
def test_motion_is_told_at_least_as_well_as_by_a_logistic_regression_less_a_point(config, description, file, tmp_path):
    shutil.copy(there(file), tmp_path / file)
    shutil.copy(description, tmp_path / description.name)
    simple = logistic_regression(read_npz(tmp_path / description.name))
    result = centralised(config, tmp_path / description.name, tmp_path / "run")
    print(f"logistic regression: {simple:.4f}")
    assert result["test"]["accuracy"] >= simple - 0.01
    assert result["wall_seconds"] < LIMIT


def test_digits_on_five_backgrounds_are_read_to_99_per_cent(tmp_path):
    with np.load(there("mnist_polymnist_ingredients.npz")) as found:
        raw_polymnist.write_mnist(tmp_path / "raw", (found["Xtr"], found["ytr"]), (found["Xte"], found["yte"]))
        raw_polymnist.write_backgrounds(tmp_path / "raw", [found[f"bg{m}"] for m in range(5)])
    folder = raw_polymnist.prepared(tmp_path / "raw", tmp_path / "set", train_tuples=6000, validation=5000)
    result = centralised("polymnist.yaml", folder, tmp_path / "run")
    assert result["test"]["n"] == 10_000
    assert result["test"]["accuracy"] >= 0.99
    assert result["wall_seconds"] < LIMIT

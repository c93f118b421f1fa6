"""Robust averages against NumPy, SciPy and Flower's own selection."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from scipy.stats import trim_mean

from fedrecon_core.errors import ConfigError
from strategies.averages import RULES, Robust
from tests.helpers.toy import toy_config

pytestmark = pytest.mark.quick


def states(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(3, 4, generator=draw), "s": torch.randn((), generator=draw)} for _ in range(count)]


def stacked(given: list, name: str) -> np.ndarray:
    return np.stack([state[name].double().numpy() for state in given])


@pytest.mark.parametrize("count", [3, 4, 7])
def test_the_median_of_each_coordinate(count):
    given = states(count)
    found = Robust(rule="median").average(given)
    for name in ("w", "s"):
        np.testing.assert_array_equal(found[name], np.median(stacked(given, name), axis=0).astype(np.float32))
        assert found[name].dtype == torch.float32 and found[name].shape == given[0][name].shape


@pytest.mark.parametrize(("count", "trim"), [(5, 0.2), (10, 0.2), (7, 0.3), (4, 0.25)])
def test_the_trimmed_mean_of_each_coordinate(count, trim):
    given = states(count)
    found = Robust(rule="trimmed", trim=trim).average(given)
    for name in ("w", "s"):
        np.testing.assert_allclose(found[name], trim_mean(stacked(given, name), trim).astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "malicious"), [(5, 1), (7, 2), (9, 1)])
def test_krum_chooses_the_state_that_flower_chooses(seed, count, malicious):
    given = states(count, seed)
    contents = [RecordDict({"arrays": ArrayRecord(state)}) for state in given]
    [chosen] = select_multikrum(contents, malicious, 1)
    expected = next(state for state, content in zip(given, contents, strict=True) if content is chosen)
    found = Robust(rule="krum", malicious=malicious).average(given)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_one_wrong_site_moves_no_coordinate_beyond_the_others(rule):
    robust = Robust(rule=rule)
    right = states(max(robust.least, 4) - 1)
    wrong = {name: torch.full_like(tensor, 1e30) for name, tensor in right[0].items()}
    found = robust.average([*right, wrong])
    for name in ("w", "s"):
        assert (found[name].double().numpy() <= stacked(right, name).max(axis=0)).all()
        assert (found[name].double().numpy() >= stacked(right, name).min(axis=0)).all()


def test_how_many_sites_each_needs():
    assert Robust(rule="median").least == 3
    assert [Robust(rule="trimmed", trim=trim).least for trim in (0.1, 0.2, 0.25, 0.3)] == [10, 5, 4, 4]
    assert [Robust(rule="krum", malicious=wrong).least for wrong in (1, 2)] == [5, 7]


def test_a_weighting_that_would_do_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"strategy\.weighting: expected uniform with robust"):
        toy_config(strategy={"name": "fedavg", "weighting": "samples", "robust": {"rule": "median"}})

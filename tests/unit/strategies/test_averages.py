"""Averages of groups against NumPy, SciPy and Flower's own selection, and the keys that choose groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from scipy.stats import trim_mean

from fedrecon_core.config import GroupSelection, parse
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import STRATEGIES
from server.runs.setup import check_run
from strategies.averages import RULES, Robust, weighted_mean
from tests.helpers.toy import NAMES, toy_config, toy_settings

pytestmark = pytest.mark.quick


# --- weighted mean ----------------------------------------------------------------------------------------------------


def states(count: int = 5, scale: float = 1.0) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "w": scale * torch.randn(3, 4, generator=draw),
            "b": torch.randn(4, generator=draw),
            "s": torch.tensor(1.0 + i),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("weights", [[1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 7.0, 0.0, 1.0]])
def test_the_mean_equals_numpys(weights):
    given = states()
    found = weighted_mean(given, weights)
    for name in ("w", "b", "s"):
        expected = np.average([state[name].double().numpy() for state in given], axis=0, weights=weights)
        np.testing.assert_allclose(found[name].numpy(), expected.astype(np.float32), rtol=1e-7)
        assert found[name].dtype == torch.float32
        assert found[name].shape == given[0][name].shape


def test_one_state_comes_back_bit_for_bit():
    (state,) = states(1)
    found = weighted_mean([state], [3.0])
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert found["w"] is not state["w"]


def test_equal_states_come_back_unchanged_whatever_the_weights():
    state = states(1)[0]
    found = weighted_mean([state] * 7, [0.1 * (i + 1) for i in range(7)])
    torch.testing.assert_close(found["w"], state["w"], rtol=1e-7, atol=0)


def test_sums_are_kept_in_float64():
    """In float32 the small ones would be lost beside the large one."""
    values = [1e8, 1.0, 1.0, -1e8]
    found = weighted_mean([{"x": torch.tensor([v])} for v in values], [1.0] * 4)
    assert found["x"].item() == 0.5


def test_the_result_depends_on_the_states_alone_not_on_earlier_calls_and_inputs_stay():
    given = states()
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in given]
    first, second = weighted_mean(given, [1.0] * 5), weighted_mean(given, [1.0] * 5)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a[n], b[n]) for a, b in zip(given, before, strict=True) for n in a)


def test_an_empty_tensor_stays_empty():
    assert weighted_mean([{"x": torch.zeros(0)}] * 2, [1.0, 1.0])["x"].shape == (0,)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0]])
def test_no_positive_weight_is_an_error(weights):
    with pytest.raises(ValueError, match="positive weight"):
        weighted_mean(states(2), weights)


def test_nothing_to_average_is_an_error():
    with pytest.raises(ValueError, match="at least one state"):
        weighted_mean([], [])


def test_states_that_hold_different_tensors_are_an_error():
    with pytest.raises(ValueError, match="expected states with the same tensors"):
        weighted_mean([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], [1.0, 1.0])


def test_a_weight_for_each_state_is_required():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        weighted_mean(states(2), [1.0])


# --- robust averages --------------------------------------------------------------------------------------------------


def random_states(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(3, 4, generator=draw), "s": torch.randn((), generator=draw)} for _ in range(count)]


def stacked(given: list, name: str) -> np.ndarray:
    return np.stack([state[name].double().numpy() for state in given])


@pytest.mark.parametrize("count", [3, 4, 7])
def test_the_median_of_each_coordinate(count):
    given = random_states(count)
    found = Robust(rule="median").average(given)
    for name in ("w", "s"):
        np.testing.assert_array_equal(found[name], np.median(stacked(given, name), axis=0).astype(np.float32))
        assert found[name].dtype == torch.float32 and found[name].shape == given[0][name].shape


@pytest.mark.parametrize(("count", "trim"), [(5, 0.2), (10, 0.2), (7, 0.3), (4, 0.25)])
def test_the_trimmed_mean_of_each_coordinate(count, trim):
    given = random_states(count)
    found = Robust(rule="trimmed", trim=trim).average(given)
    for name in ("w", "s"):
        np.testing.assert_allclose(found[name], trim_mean(stacked(given, name), trim).astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "malicious"), [(5, 1), (7, 2), (9, 1)])
def test_krum_chooses_the_state_that_flower_chooses(seed, count, malicious):
    given = random_states(count, seed)
    contents = [RecordDict({"arrays": ArrayRecord(state)}) for state in given]
    [chosen] = select_multikrum(contents, malicious, 1)
    expected = next(state for state, content in zip(given, contents, strict=True) if content is chosen)
    found = Robust(rule="krum", malicious=malicious).average(given)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_one_wrong_site_moves_no_coordinate_beyond_the_others(rule):
    robust = Robust(rule=rule)
    right = random_states(max(robust.least, 4) - 1)
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


# --- groups of a config -----------------------------------------------------------------------------------------------


ACTING: list[Any] = [cls.Params for _, cls in STRATEGIES.items() if issubclass(cls.Params, GroupSelection)]  # type: ignore[attr-defined]
SGD = {phase: {"optimizer": "sgd"} for phase in ("generator", "mapping", "task")}


def keys_of(name: str, groups: list[str]) -> tuple[str, dict[str, Any]]:
    """Where ``groups`` stand, and the keys of the strategy ``name`` (or of a robust ``fedavg``) with them."""
    if name in RULES:
        return "strategy.robust.groups", {"name": "fedavg", "robust": {"rule": name, "groups": groups}}
    return "strategy.groups", {"name": name, "groups": groups}


def tried(name: str, groups: list[str], recovery: str = "fedrecon") -> str:
    """Try a config out; returns where ``groups`` stand."""
    key, strategy = keys_of(name, groups)
    check_run(parse(toy_settings(recovery, strategy, local=SGD)))
    return key


ALL = [*sorted(params().name for params in ACTING), *sorted(RULES)]


def test_the_strategies_that_act_on_groups_are_tried():
    assert {"fedopt", "fedprox", "mmfedmc", "scaffold"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("stray", "near"),
    [
        ("tsk.", "Did you mean 'task.'?"),
        ("tsk", "Did you mean 'task.'?"),
        ("task.extractor.stepz", "Did you mean 'task.extractor.steps'?"),
        ("mapping.picture->featurs", "Did you mean 'mapping.picture->features'?"),
        ("Task.head", "Did you mean 'task.head'?"),
        ("qqq", None),
    ],
)
def test_a_prefix_that_no_group_begins_with_is_refused_with_the_nearest(name, stray, near):
    with pytest.raises(ConfigError) as raised:
        tried(name, ["task.", stray])
    expected = "expected prefixes of the groups of this run, whose names begin with generator., mapping., task.; found"
    hint = f". {near}" if near else ""
    assert str(raised.value) == f"{keys_of(name, [])[0]}: {expected} '{stray}'{hint}"


@pytest.mark.parametrize("name", ALL)
def test_groups_of_another_recovery_are_refused(name):
    for prefix in ("generator.", "mapping."):
        assert tried(name, [prefix])
        with pytest.raises(ConfigError, match=rf"groups: .* begin with task\.; found '{prefix}'"):
            tried(name, [prefix], "mask")


@pytest.mark.parametrize("name", ALL)
def test_no_group_at_all_is_refused(name):
    message = r"^strategy\.(robust\.)?groups: expected at least one prefix of the groups' names, found \[\]; "
    with pytest.raises(ConfigError, match=message):
        tried(name, [])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("prefix", ["", "t", "task.", "task.head", *(f"task.extractor.{name}" for name in NAMES)])
def test_a_prefix_of_some_group_is_taken(name, prefix):
    assert tried(name, [prefix])


def test_the_defaults_fit_every_recovery():
    for name in ALL:
        robust = {"name": "fedavg", "robust": {"rule": name}}
        check_run(parse(toy_settings("mask", robust if name in RULES else name, local=SGD)))

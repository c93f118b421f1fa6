"""Keys that act on groups: each of their prefixes must begin the name of a group that the run has."""

from __future__ import annotations

from typing import Any

import pytest

from fedrecon_core.config import GroupSelection, parse
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import STRATEGIES
from server.runs.setup import check_run
from strategies.averages import RULES
from tests.helpers.toy import NAMES, toy_settings

pytestmark = pytest.mark.quick

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

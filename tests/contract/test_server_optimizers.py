"""Every optimiser of ``fedopt`` against those promises of a strategy that touch what the server makes of an average."""

import pytest

from strategies.server_optimizers import RULES
from tests.contract.strategy_checks import (
    bench_of,
    check_a_group_that_nobody_returned_keeps_its_state,
    check_a_round_trains_what_was_returned_and_nothing_else,
    check_order_of_arrival_does_not_matter,
    check_state_survives_a_checkpoint,
    check_state_taken_up_again_continues_to_the_byte,
    held_out_accuracy,
)

SITES = {
    "slow adam": {"epochs": 4, "batch": 6, "lr": 0.001},
    "fast sgd": {"epochs": 4, "batch": 6, "lr": 0.05, "optimizer": "sgd", "momentum": 0.9},
}
CHECKS = (
    check_a_group_that_nobody_returned_keeps_its_state,
    check_a_round_trains_what_was_returned_and_nothing_else,
    check_order_of_arrival_does_not_matter,
    check_state_taken_up_again_continues_to_the_byte,
)
optimizers = pytest.mark.parametrize("optimizer", sorted(RULES))


def fedopt(optimizer):
    return {"name": "fedopt", "optimizer": optimizer}


@optimizers
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_optimizer(optimizer, check):
    check(fedopt(optimizer))


@optimizers
def test_state_survives_a_checkpoint(optimizer, tmp_path):
    check_state_survives_a_checkpoint(fedopt(optimizer), tmp_path)


@pytest.mark.parametrize("task", SITES.values(), ids=SITES)
@pytest.mark.parametrize("optimizer", sorted(set(RULES) - {"sgd"}))
def test_its_defaults_learn_whatever_the_sites_optimiser(optimizer, task):
    """In 20 rounds, where ``sgd`` has 8 in the check of all strategies: the sites' steps do not set their pace."""
    bench = bench_of(fedopt(optimizer), "mask", missing={}, local={"task": task})
    groups = bench.initial()
    for round_ in range(1, 21):
        groups = bench.round(round_, groups)
    assert held_out_accuracy(bench, groups) > 0.7, "chance is 0.33"

"""``zero`` whose zeros the fusion does not see, as in the benchmark: ``mask`` in all but what is averaged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedrecon_core.local.local_round import TrainRequest
from fedrecon_core.local.stage_runner import optimizer_for
from fedrecon_core.state import State, extractor_group, strategy_group
from server.runs.setup import load_config
from strategies.fedprox import FedProx, FedProxParams
from strategies.scaffold import Scaffold, ScaffoldParams
from tests.helpers.toy import toy_recovery
from tests.unit.fedrecon_core.recovery.test_recovery_stages import changed, job_of, only, train

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "fedmultimodal"
UNSEEN = {"name": "zero", "attended": False}
ABSENT = [extractor_group(name) for name in ("features", "steps")]
STEPS = 3
"""Of the toy's 48 samples in batches of 16, as the benchmark's."""


def task_of(config: str, **keys) -> dict:
    """The task stage of one of the benchmark's configs: SGD with momentum, weight decay and clipping."""
    found = load_config(CONFIGS / f"{config}.yaml").local.task
    assert found.batch == 16 and found.epochs == 1 and found.weight_decay == 1e-5
    return {"local": {"task": {**found.model_dump(), **keys}}}


TASK = task_of("uci_har_fedavg")


def moved(request: TrainRequest, group: str, added: Callable[[Tensor, Tensor], Tensor]) -> State:
    """``group`` after the round's steps, whose gradients are ``added`` (to weights and to what they were) alone."""
    start = request.received[group]
    weights = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    optimizer = optimizer_for(request.recovery.config.local.task, list(weights.values()))
    for _ in range(STEPS):
        for name, weight in weights.items():
            weight.grad = added(weight.detach(), start[name])
        optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def norm(state: State) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in state.values()]).norm())


def same(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_what_the_site_has_trains_as_under_mask():
    unseen, mask = (train(job_of(toy_recovery(name, **TASK), only("picture"))) for name in (UNSEEN, "mask"))
    for group, state in mask.groups.items():
        for name, tensor in state.items():
            torch.testing.assert_close(unseen.groups[group][name], tensor)


@pytest.mark.parametrize("config", ["crisismmd", "meld", "uci_har_fedavg"])
def test_what_it_lacks_shrinks_by_weight_decay_alone_and_is_averaged(config):
    request = job_of(toy_recovery(UNSEEN, **task_of(config)), only("picture"))
    result = train(request)
    assert all(result.counts[group] == 48 and result.real[group] == 0 for group in ABSENT)
    assert set(ABSENT) <= changed(request, result)
    for group in ABSENT:
        assert same(result.groups[group], moved(request, group, lambda weight, start: torch.zeros_like(weight)))
        assert 0.99999 < norm(result.groups[group]) / norm(request.received[group]) < 1


def test_without_weight_decay_it_goes_back_as_it_came():
    request = job_of(toy_recovery(UNSEEN, **task_of("meld", weight_decay=0.0)), only("picture"))
    result = train(request)
    assert set(ABSENT) <= set(result.counts) and not set(ABSENT) & changed(request, result)


def test_adam_makes_whole_steps_of_weight_decay():
    task = task_of("meld", optimizer="adam", momentum=0.0)
    request = job_of(toy_recovery(UNSEEN, **task), only("picture"))
    result = train(request)
    for group in ABSENT:
        steps = [(request.received[group][name] - tensor).abs().max() for name, tensor in result.groups[group].items()]
        assert float(max(steps)) == pytest.approx(STEPS * task["local"]["task"]["lr"], rel=0.05)


PULL, VARIATE = 10.0, 0.01


def test_what_a_strategy_adds_to_the_gradients_moves_it_too():
    """``fedprox`` holds it where it was, against weight decay; ``scaffold`` moves it by the server's variate."""
    request = job_of(toy_recovery(UNSEEN, **TASK), only("picture"))
    plain = train(request)
    pulled = train(replace(request, hook=FedProx.local_half(FedProxParams(mu=PULL))))
    variates = {g: {n: torch.full_like(t, VARIATE) for n, t in request.received[g].items()} for g in ABSENT}
    sent = {strategy_group("scaffold", group): state for group, state in variates.items()}
    corrected = train(replace(request, hook=Scaffold.local_half(ScaffoldParams()), strategy_groups=sent))
    for group in ABSENT:
        assert same(pulled.groups[group], moved(request, group, lambda weight, start: PULL * (weight - start)))
        assert norm(plain.groups[group]) < norm(pulled.groups[group]) < norm(request.received[group])
        assert same(
            corrected.groups[group], moved(request, group, lambda weight, start: torch.full_like(weight, VARIATE))
        )


def test_zeros_that_are_seen_change_what_the_site_learns():
    seen, mask = (train(job_of(toy_recovery(name, **TASK), only("picture"))) for name in ("zero", "mask"))
    before, after = mask.groups["task.head"], seen.groups["task.head"]
    assert any(not torch.allclose(tensor, after[name]) for name, tensor in before.items())

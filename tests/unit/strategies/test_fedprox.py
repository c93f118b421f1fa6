"""``fedprox``: its gradients against autograd of the loss with the penalty, what it pulls, and where it pulls to."""

from dataclasses import replace

import pytest
import torch

from fedrecon_core.errors import ConfigError
from fedrecon_core.local.hook import HookState, LocalHook
from fedrecon_core.local.local_round import train_locally
from fedrecon_core.recovery.base import TaskObjective
from fedrecon_core.recovery.stage import set_frozen
from fedrecon_core.state import read_group
from strategies.fedprox import FedProx
from tests.helpers.contract_support import assert_trained_to, late_context, local_round, same, site_of, toys
from tests.helpers.toy import NAMES, everything, toy_config, toy_recovery, toy_site

pytestmark = pytest.mark.quick

MU = 3.0


def hook_of(**keys) -> LocalHook:
    """The local half of the strategy that a config with ``keys`` names."""
    return FedProx.local_half(toy_config(strategy={"name": "fedprox", "mu": MU, **keys}).strategy)


def steps(count: int, **keys) -> dict:
    """A task stage of ``count`` steps with all samples of the toy in each."""
    return {"local": {"task": {"epochs": count, "batch": 48, "optimizer": "sgd", "lr": 0.2, **keys}}}


def task_parameters(groups) -> dict[str, torch.nn.Parameter]:
    """Group/tensor -> parameter of the task model, ready to train."""
    chosen = {name: module for name, module in groups.items() if name.startswith("task.")}
    for module in chosen.values():
        set_frozen(module, frozen=False)
    return {f"{group}/{name}": p for group, module in chosen.items() for name, p in module.named_parameters()}


def penalty(parameters, start, mu: float = MU) -> torch.Tensor:
    """mu / 2 times the squared distance, as a graph."""
    return mu / 2 * sum(((p - start[name]) ** 2).sum() for name, p in parameters.items())


def started(context) -> tuple[TaskObjective, dict, dict]:
    """The objective of a context's task stage, its parameters, and copies of them."""
    parameters = task_parameters(context.groups)
    return (
        TaskObjective(toy_recovery("mask"), context),
        parameters,
        {name: p.detach().clone() for name, p in parameters.items()},
    )


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_round_takes_the_steps_of_the_penalised_loss_and_reports_it_without_the_penalty(clip):
    recovery, data = toy_recovery("mask", **steps(4, clip=clip, momentum=0.9, weight_decay=0.01)), toy_site()
    _, result, _ = local_round(recovery, data, hook=hook_of())
    objective, parameters, start = started(late_context(recovery, data))
    optimizer = torch.optim.SGD(parameters.values(), lr=0.2, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        loss = objective.loss(torch.arange(48))
        (loss + penalty(parameters, start)).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        optimizer.step()
    assert_trained_to(result, parameters)
    assert result.stages[-1].loss == pytest.approx(loss.item(), rel=1e-4)
    _, plain, _ = local_round(recovery, data)
    apart = plain.groups["task.head"]["classifier.3.weight"] - result.groups["task.head"]["classifier.3.weight"]
    assert apart.abs().max() > 0.01, "the penalty should show"


def test_a_batch_without_a_modality_pulls_its_extractor_too():
    """The first batch reaches every extractor, the second has no sample with ``features``: the penalty's gradient is
    all that its extractor gets."""
    present = everything(48)
    present[8:, 1] = False
    recovery = toy_recovery("mask")
    context, hook = late_context(recovery, site_of(toys(), present, recovery)), hook_of()
    hook.begin(context, HookState())
    objective, parameters, start = started(context)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.2)
    for batch in (torch.arange(8), torch.arange(8, 48)):
        optimizer.zero_grad()
        expected = torch.autograd.grad(objective.loss(batch) + penalty(parameters, start), list(parameters.values()))
        objective.loss(batch).backward()
        hook.gradients(parameters.items())
        for parameter, gradient in zip(parameters.values(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)
        optimizer.step()


@pytest.mark.parametrize("optimizer", ["momentum", "weight decay", "adam"])
def test_next_to_no_mu_lets_the_optimiser_go_on_where_a_batch_has_nothing(optimizer):
    """The second batch has no sample with ``features``: without ``mu`` its extractor rests, with the least it moves."""
    make = {
        "momentum": lambda weights: torch.optim.SGD(weights, lr=0.2, momentum=0.9),
        "weight decay": lambda weights: torch.optim.SGD(weights, lr=0.2, weight_decay=0.1),
        "adam": lambda weights: torch.optim.Adam(weights, lr=0.2),
    }[optimizer]
    present = everything(48)
    present[8:, 1] = False
    recovery = toy_recovery("mask")
    moved = {}
    for mu in (0.0, 1e-12):
        context, hook = late_context(recovery, site_of(toys(), present, recovery)), hook_of(mu=mu)
        hook.begin(context, HookState())
        objective, parameters, _ = started(context)
        stepping, name = make(list(parameters.values())), "task.extractor.features/linear.weight"
        for batch in (torch.arange(8), torch.arange(8, 48)):
            before = parameters[name].detach().clone()
            stepping.zero_grad()
            objective.loss(batch).backward()
            hook.gradients(parameters.items())
            stepping.step()
        moved[mu] = float((parameters[name].detach() - before).abs().max())
    assert moved[0.0] == 0.0 and moved[1e-12] > 1e-4


def test_what_no_loss_has_reached_is_left_without_a_gradient():
    context, hook = late_context(toy_recovery("mask"), toy_site()), hook_of()
    hook.begin(context, HookState())
    objective, parameters, _ = started(context)
    hook.gradients(parameters.items())
    assert all(parameter.grad is None for parameter in parameters.values())
    objective.loss(torch.arange(48)).backward()
    hook.gradients(parameters.items())
    for parameter in parameters.values():
        parameter.grad = None
    hook.begin(context, HookState())
    hook.gradients(parameters.items())
    assert all(parameter.grad is None for parameter in parameters.values()), "in the next round as well"


def test_every_round_pulls_to_the_model_that_it_received():
    recovery, data, hook = toy_recovery("mask", **steps(3)), toy_site(), hook_of()
    job, first, modules = local_round(recovery, data, hook=hook)
    again = replace(job, received=first.groups)
    second = train_locally(again, modules)
    fresh = train_locally(replace(again, hook=hook_of()), recovery.build(job.plan.download))
    assert same(second.groups, fresh.groups)


@pytest.fixture(scope="module")
def pulled():
    """GroupPrefixes -> the groups that FedRecon's round leaves elsewhere with the penalty on them than without."""
    recovery, data = toy_recovery(), toy_site()
    _, plain, _ = local_round(recovery, data)

    def apart(groups: list[str]) -> set[str]:
        _, found, _ = local_round(recovery, data, hook=hook_of(groups=groups) if groups else hook_of())
        return {name for name in plain.groups if not same({name: plain.groups[name]}, {name: found.groups[name]})}

    return apart


def test_the_task_model_alone_is_pulled_unless_told_otherwise(pulled):
    assert pulled([]) == {"task.head", *(f"task.extractor.{name}" for name in NAMES)}


def test_the_prefixes_choose_groups_of_any_stage(pulled):
    """What is trained after them, from what they became, may end elsewhere as well; nothing before them does."""
    steps = {"generator.steps.encoder", "generator.steps.decoder"}
    assert {name for name in pulled(["generator.steps."]) if name.startswith("generator.")} == steps
    found = pulled(["mapping.steps->"])
    assert {name for name in found if not name.startswith("task.")} == {f"mapping.steps->{n}" for n in NAMES[:2]}


@pytest.mark.parametrize("name", ["mask", "fedrecon"])
def test_without_mu_a_site_trains_as_in_fedavg_to_the_byte(name):
    recovery, data = toy_recovery(name), toy_site()
    _, fedavg, _ = local_round(recovery, data)
    _, none, _ = local_round(recovery, data, hook=hook_of(mu=0))
    _, some, _ = local_round(recovery, data, hook=hook_of(mu=0.01))
    assert same(none.groups, fedavg.groups)
    assert not same(some.groups, fedavg.groups)


def test_the_sites_forget_the_received_model_when_the_round_is_over():
    """Nothing of it goes to a site's disk or back to the server."""
    job, result, modules = local_round(toy_recovery("mask"), toy_site(), hook=hook_of())
    assert set(result.groups) == set(job.plan.upload)
    assert job.store.kept == {}
    assert same(result.groups, {name: read_group(module) for name, module in modules.items()})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mu", -0.1, "strategy.mu: expected greater than or equal to 0, found -0.1"),
        ("mu", "much", "strategy.mu: expected a valid number, found 'much'"),
        ("groups", 3, "strategy.groups: expected a list, found 3"),
        ("group", ["task."], "strategy.group: unknown key (found ['task.']). Did you mean 'groups'?"),
    ],
)
def test_a_wrong_key_is_named(key, value, message):
    with pytest.raises(ConfigError) as error:
        toy_config(strategy={"name": "fedprox", key: value})
    assert message in str(error.value)

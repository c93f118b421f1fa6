"""``fedrs``: logits against a formula of the weights, the classes that a site has, and the bias that never moves."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedrecon_core.config import parse
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.errors import ConfigError
from fedrecon_core.local.evaluate import predict
from fedrecon_core.local.hook import HookState, LocalHook
from fedrecon_core.recovery.base import TaskObjective
from fedrecon_core.recovery.stage import set_frozen
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.tokens import tokenise
from server.runs.setup import check_run
from strategies.fedrs import FedRS
from tests.helpers.contract_support import assert_trained_to, late_context, local_round, same
from tests.helpers.multilabel import multilabel_settings
from tests.helpers.toy import CPU, everything, tiny_dataset, toy_config, toy_recovery, toy_site, toy_spec

pytestmark = pytest.mark.quick

ALPHA, BIAS = 0.3, "classifier.3.bias"
MASK = toy_recovery("mask")


def hook_of(**keys) -> LocalHook:
    """The local half of the strategy that a config with ``keys`` names."""
    return FedRS.local_half(toy_config(strategy={"name": "fedrs", "alpha": ALPHA, **keys}).strategy)


def site_with(*classes: int) -> SiteData:
    """The training samples of ``classes``, complete."""
    dataset = tiny_dataset()
    samples = dataset.members(0)
    samples = samples[np.isin(dataset.labels[samples], classes)]
    return open_site(dataset, samples, everything(len(samples)), device=CPU)


def restricted(groups, data: SiteData, scale: torch.Tensor) -> torch.Tensor:
    """[N, C]: logits of all samples from the rows of the last layer's weight, each times its scale, without bias."""
    model, batch = TaskModel(groups, data.spec), data.batch(torch.arange(len(data)))
    head = groups["task.head"]
    hidden = head.classifier[:-1](head.fusion(tokenise(model.extractors, model.names, batch, ())))
    return hidden @ (scale[:, None] * head.classifier[-1].weight).T


@pytest.mark.parametrize(
    ("classes", "scale"),
    [((0, 1, 2), (1, 1, 1)), ((0, 2), (1, ALPHA, 1)), ((2,), (ALPHA, ALPHA, 1)), ((0,), (1, ALPHA, ALPHA))],
)
def test_logits_are_the_weights_rows_scaled_by_the_classes_that_the_site_has(classes, scale):
    data, hook = site_with(*classes), hook_of()
    context = late_context(MASK, data)
    hook.begin(context, HookState())
    batch = data.batch(torch.arange(len(data)))
    found = hook.logits(TaskModel(context.groups, data.spec).logits(batch), batch.labels)
    torch.testing.assert_close(
        found, restricted(context.groups, data, torch.tensor(scale).float()), rtol=1e-5, atol=1e-6
    )


def test_the_classes_are_those_of_the_site_and_not_of_the_batch():
    data, hook = site_with(0, 2), hook_of()
    hook.begin(late_context(MASK, data), HookState())
    logits = torch.ones(4, 3)
    both, one = (hook.logits(logits, torch.full((4,), label)) for label in (0, 2))
    assert torch.equal(both, one)


def test_another_site_has_other_classes():
    hook, bare = hook_of(), torch.zeros(1, 3)
    scaled = []
    for classes in ((0, 2), (1,)):
        context = late_context(MASK, site_with(*classes))
        torch.nn.init.zeros_(context.groups["task.head"].classifier[-1].bias)
        hook.begin(context, HookState())
        scaled.append(hook.logits(bare + 2, torch.zeros(1, dtype=torch.long)))
    assert [row.flatten().tolist() for row in scaled] == [pytest.approx([2, 0.6, 2]), pytest.approx([0.6, 2, 0.6])]


def task_parameters(groups) -> dict[str, torch.nn.Parameter]:
    """Group/tensor -> parameter of the task model without the last bias, ready to train."""
    for name in (chosen := [name for name in groups if name.startswith("task.")]):
        set_frozen(groups[name], frozen=False)
    named = {f"{group}/{name}": p for group in chosen for name, p in groups[group].named_parameters()}
    return {name: parameter for name, parameter in named.items() if not name.endswith(BIAS)}


@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_round_takes_the_steps_of_the_restricted_softmax(clip):
    """With weight decay, momentum and a clip to which the bias must add nothing."""
    data, keys = site_with(0, 2), {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01}
    phase = {"epochs": 4, "batch": 48, "optimizer": "sgd", "clip": clip, **keys}
    recovery = toy_recovery("mask", local={"task": phase})
    _, result, _ = local_round(recovery, data, hook=hook_of())
    groups = recovery.build()
    parameters = task_parameters(groups)
    optimizer = torch.optim.SGD(parameters.values(), **keys)
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(restricted(groups, data, torch.tensor([1, ALPHA, 1])), data.labels)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        optimizer.step()
    assert_trained_to(result, parameters)
    assert result.stages[-1].loss == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("keys", [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}])
def test_a_round_leaves_the_bias_to_the_byte_and_trains_all_else(keys):
    phase = {"epochs": 2, "batch": 8, "lr": 0.1, "weight_decay": 0.1, **keys}
    job, result, _ = local_round(toy_recovery("mask", local={"task": phase}), site_with(0, 1), hook=hook_of())
    still = {
        f"{group}/{name}"
        for group, state in result.groups.items()
        for name, tensor in state.items()
        if torch.equal(tensor, job.received[group][name])
    }
    assert still == {f"task.head/{BIAS}"}
    assert job.received["task.head"][BIAS].abs().min() > 0


def test_the_bias_has_no_gradient_where_clipping_would_see_it():
    data, hook = toy_site(), hook_of()
    context = late_context(MASK, data)
    hook.begin(context, HookState())
    context.logits_hook = hook.logits
    set_frozen(context.groups["task.head"], frozen=False)
    TaskObjective(MASK, context).loss(torch.arange(12)).backward()
    named = dict(context.groups["task.head"].named_parameters())
    hook.gradients((f"task.head/{name}", parameter) for name, parameter in named.items())
    assert {name for name, parameter in named.items() if parameter.grad is None} == {BIAS}


def test_evaluation_adds_the_bias_and_scales_nothing():
    data = site_with(0)
    job, _, modules = local_round(MASK, data, hook=hook_of())
    found = predict(MASK, modules, job.global_info, data, "test").logits
    expected = restricted(modules, data, torch.ones(3)) + modules["task.head"].classifier[-1].bias
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_site_of_all_classes_trains_the_same_at_any_alpha():
    ends = [local_round(MASK, toy_site(), hook=hook_of(alpha=alpha))[1].groups for alpha in (0, 0.5, 1)]
    assert same(ends[0], ends[1]) and same(ends[1], ends[2])


def test_a_class_that_a_site_lacks_is_pushed_away_less_the_smaller_alpha():
    """At 0 the row of its weight does not move at all."""
    moves, weight = [], "classifier.3.weight"
    recovery = toy_recovery("mask", local={"task": {"optimizer": "sgd", "lr": 0.1, "batch": 16}})
    for alpha in (0, 0.5, 1):
        job, result, _ = local_round(recovery, site_with(0, 1), hook=hook_of(alpha=alpha))
        moves.append((result.groups["task.head"][weight] - job.received["task.head"][weight])[2].norm().item())
    assert moves[0] == 0
    assert moves[0] < moves[1] < moves[2]


def test_several_labels_per_sample_are_refused_with_a_reason():
    toy_config("mask", "fedrs").strategy.check_data(toy_spec())
    with pytest.raises(ConfigError) as error:
        check_run(parse(multilabel_settings(strategy="fedrs")))
    assert str(error.value) == (
        "strategy.name: fedrs restricts the softmax over the classes: expected data with one class per sample, found "
        "the multilabel data set toy_multilabel; choose another strategy"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("alpha", 1.5, "strategy.alpha: expected less than or equal to 1, found 1.5"),
        ("alpha", -0.1, "strategy.alpha: expected greater than or equal to 0, found -0.1"),
        ("alhpa", 0.5, "strategy.alhpa: unknown key (found 0.5). Did you mean 'alpha'?"),
    ],
)
def test_a_wrong_key_is_named(key, value, message):
    with pytest.raises(ConfigError) as error:
        toy_config(strategy={"name": "fedrs", key: value})
    assert message in str(error.value)

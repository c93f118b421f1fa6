"""``fedopt`` steps against torch.optim.SGD; what it leaves to plain averages."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from fedrecon_core.local.loop import LocalResult
from fedrecon_core.state import TransferPlan
from server.engines.base import Job
from server.engines.inprocess import InProcessGrid
from server.engines.pool import Here
from strategies import messages
from strategies.federation import Federation
from strategies.fedopt import FedOpt
from strategies.messages import SiteInfo
from tests.toys.federation import toy_config, toy_spec

pytestmark = pytest.mark.quick

TASK, GENERATOR = "task.head", "generator.picture.encoder"
SITES = ("site-0000", "site-0001")


@pytest.fixture(autouse=True)
def _grid():
    """Messages can only be made where a grid has said which run they belong to."""
    InProcessGrid(Job(Path("config.yaml"), Path("run"), False, sites=2), Here(None)).close()


def strategy(local: dict | None = None, **keys) -> FedOpt:
    """Over two sites that send and receive both groups."""
    config = toy_config(strategy={"name": "fedopt", **keys}, sites={"count": 2}, local=local or {})
    sites = {name: SiteInfo(name, "", "", ("picture",), 10, {}) for name in SITES}
    plan = TransferPlan.of([TASK, GENERATOR], [TASK, GENERATOR])
    nodes = {name: number for number, name in enumerate(SITES, start=2)}
    return FedOpt(Federation(config, toy_spec(), "run", sites, nodes, dict.fromkeys(SITES, plan)))


def state(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 2, generator=draw), "b": torch.randn(2, generator=draw)}


def model(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    return {TASK: state(seed), GENERATOR: state(seed + 1)}


def reply(groups: dict, samples: int = 10) -> SimpleNamespace:
    """A site's answer: what the strategy reads is its content alone."""
    counts = dict.fromkeys(groups, samples)
    return SimpleNamespace(content=messages.write_result(LocalResult(groups, counts, counts, {}, []), samples, 0.0))


def play(server: FedOpt, round_: int, groups: dict, replies: list[dict]) -> dict:
    """One round from ``groups``."""
    arrays = messages.flatten({name: messages.pack_group(state) for name, state in groups.items()})
    server.configure_train(round_, arrays, ConfigRecord(), None)
    updated, _ = server.aggregate_train(round_, [reply(given) for given in replies])
    return {name: messages.unpack_group(record) for name, record in messages.unflatten(updated).items()}


def close(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("lr", "momentum"), [(0.01, 0.9), (1.0, 0.0), (0.3, 0.5)])
@pytest.mark.parametrize("client_lr", [None, 0.05])
def test_steps_equal_torchs_sgd_on_the_pseudo_gradient(lr, momentum, client_lr):
    server = strategy(lr=lr, momentum=momentum, client_lr=client_lr)
    scale = client_lr or server.federation.config.local.task.lr
    groups = model()
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in groups[TASK].items()}
    reference = torch.optim.SGD(parameters.values(), lr=lr, momentum=momentum)
    for round_ in range(1, 5):
        drifts = [{n: t + 0.01 * scale * state(10 * round_ + i)[n] for n, t in groups[TASK].items()} for i in range(2)]
        for name, parameter in parameters.items():
            average = torch.stack([drift[name] for drift in drifts]).mean(0)
            parameter.grad = (parameter.detach() - average) / scale
        reference.step()
        groups = play(server, round_, groups, [{TASK: drift} for drift in drifts])
        close(groups[TASK], {name: parameter.detach() for name, parameter in parameters.items()})


def test_server_lr_equal_to_client_lr_without_momentum_is_plain_averaging():
    server = strategy(lr=0.1, momentum=0.0, client_lr=0.1)
    sent = [{TASK: state(5)}, {TASK: state(6)}]
    close(play(server, 1, model(), sent)[TASK], {n: (state(5)[n] + state(6)[n]) / 2 for n in ("w", "b")})


@pytest.mark.parametrize("task_lr", [1e-3, 0.5])
def test_without_momentum_the_default_lr_gives_the_plain_average_at_any_client_lr(task_lr):
    server = strategy(local={"task": {"lr": task_lr}}, momentum=0.0)
    sent = [{TASK: state(5)}, {TASK: state(6)}]
    close(play(server, 1, model(), sent)[TASK], {n: (state(5)[n] + state(6)[n]) / 2 for n in ("w", "b")})


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_updates_that_agree_come_to_one_average_update_per_round(momentum):
    server, groups = strategy(momentum=momentum), model()
    for round_ in range(1, 101):
        before, groups = groups, play(server, round_, groups, [{TASK: {n: t + 1 for n, t in groups[TASK].items()}}])
    for name, tensor in groups[TASK].items():
        torch.testing.assert_close(tensor - before[TASK][name], torch.ones_like(tensor), rtol=1e-3, atol=0)


def test_groups_outside_the_prefixes_are_plain_averages_without_momentum():
    server = strategy()
    after = play(server, 1, model(), [{TASK: state(5), GENERATOR: state(6)}, {GENERATOR: state(7)}])
    close(after[GENERATOR], {n: (state(6)[n] + state(7)[n]) / 2 for n in ("w", "b")})
    assert set(server.state()) == {TASK}


def test_the_prefixes_are_a_choice():
    server = strategy(groups=["generator."])
    after = play(server, 1, model(), [{TASK: state(5), GENERATOR: state(6)}])
    close(after[TASK], state(5))
    assert set(server.state()) == {GENERATOR}


def test_a_group_that_nobody_returned_keeps_its_parameters_and_momentum():
    server = strategy()
    first = play(server, 1, model(), [{TASK: state(5), GENERATOR: state(6)}])
    momentum = {name: tensor.clone() for name, tensor in server.state()[TASK].items()}
    second = play(server, 2, first, [{GENERATOR: state(8)}])
    close(second[TASK], first[TASK])
    close(server.state()[TASK], momentum)


def test_momentum_that_was_saved_and_loaded_goes_on_as_if_nothing_had_happened():
    through, first = strategy(), strategy()
    groups = play(through, 1, model(), [{TASK: state(5)}])
    play(first, 1, model(), [{TASK: state(5)}])
    resumed = strategy()
    resumed.load_state(first.state())
    close(*(play(server, 2, groups, [{TASK: state(6)}])[TASK] for server in (through, resumed)))
    forgetful = play(strategy(), 2, groups, [{TASK: state(6)}])[TASK]
    assert not torch.allclose(forgetful["w"], play(first, 2, groups, [{TASK: state(6)}])[TASK]["w"])


def test_weighting_by_samples_reaches_the_average():
    server = strategy(weighting="samples", lr=0.1, momentum=0.0, client_lr=0.1)
    arrays = messages.flatten({name: messages.pack_group(state) for name, state in model().items()})
    server.configure_train(1, arrays, ConfigRecord(), None)
    updated, _ = server.aggregate_train(1, [reply({TASK: state(5)}, 1), reply({TASK: state(6)}, 3)])
    found = messages.unpack_group(messages.unflatten(updated)[TASK])
    expected = np.average([state(5)["w"], state(6)["w"]], axis=0, weights=[1, 3])
    np.testing.assert_allclose(found["w"].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert server.federation.trained == {TASK: 4}

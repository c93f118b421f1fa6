"""``fedopt`` steps against torch.optim and, for Yogi, NumPy; what it leaves to plain averages; what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrecon_core.errors import ConfigError
from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.state import TransferPlan
from server.engines.base import Job
from server.engines.inprocess import InProcessGrid
from server.engines.pool import Here
from server.training.checkpoints import Training, load_newest, save
from strategies.federation import Federation
from strategies.fedopt import FedOpt, FedOptParams
from strategies.messages import Identity, SiteInfo, TrainReply
from strategies.server_optimizers import RULES
from tests.helpers.contract_support import same
from tests.helpers.toy import toy_config, toy_spec

pytestmark = pytest.mark.quick

TASK, GENERATOR = "task.head", "generator.picture.encoder"
SITES = ("site-0000", "site-0001")
optimizers = pytest.mark.parametrize("optimizer", sorted(RULES))
adaptive = pytest.mark.parametrize("optimizer", sorted(set(RULES) - {"sgd"}))


@pytest.fixture(autouse=True)
def _grid():
    """Create a grid: Flower creates messages only in a process that has set a run."""
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


def reply(groups: dict, samples: int = 10) -> TrainReply:
    """A site's reply."""
    counts = dict.fromkeys(groups, samples)
    return TrainReply.of(TrainResult(groups, counts, counts, {}, []), samples, 0.0, 0.0, Identity("", ""))


def play(server: FedOpt, round_: int, groups: dict, replies: list[dict]) -> dict:
    """One round from ``groups``."""
    server.train_messages(round_, groups)
    return server.aggregate(round_, [reply(given) for given in replies])[0]


def close(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-5, atol=1e-6)


class NumpyYogi:
    """Yogi in float64 as its formula stands, with moments corrected for their start at zero."""

    def __init__(self, parameters, lr, betas, eps):
        self.parameters, self.lr, self.betas, self.eps, self.moments = list(parameters), lr, betas, eps, []

    def step(self):
        (first, second), self.moments = self.betas, self.moments or [(0.0, 0.0, 0)] * len(self.parameters)
        for number, parameter in enumerate(self.parameters):
            g, (m, v, t) = parameter.grad.double().numpy(), self.moments[number]
            m, v, t = first * m + (1 - first) * g, v - (1 - second) * np.sign(v - g**2) * g**2, t + 1
            moved = self.lr * (m / (1 - first**t)) / (np.sqrt(v / (1 - second**t)) + self.eps)
            parameter.data = (parameter.detach().double() - torch.from_numpy(moved)).float()
            self.moments[number] = (m, v, t)


REFERENCES = {
    "sgd": lambda p, lr, k: torch.optim.SGD(p, lr=lr, momentum=k["momentum"]),
    "adam": lambda p, lr, k: torch.optim.Adam(p, lr=lr, betas=(k["beta1"], k["beta2"]), eps=k["tau"]),
    "yogi": lambda p, lr, k: NumpyYogi(p, lr, (k["beta1"], k["beta2"]), k["tau"]),
    "adagrad": lambda p, lr, k: torch.optim.Adagrad(p, lr=lr, eps=k["tau"]),
}
CASES = [
    *(("sgd", lr, {"momentum": momentum}) for lr, momentum in ((0.01, 0.9), (1.0, 0.0), (0.3, 0.5))),
    *(
        (name, lr, {"beta1": one, "beta2": two, "tau": tau})
        for name in ("adam", "yogi")
        for lr, one, two, tau in ((0.03, 0.9, 0.99, 1e-3), (0.2, 0.0, 0.5, 1e-8), (0.1, 0.5, 0.9, 0.1))
    ),
    *(("adagrad", lr, {"tau": tau}) for lr, tau in ((0.03, 1e-3), (0.5, 0.1))),
]


@pytest.mark.parametrize(("optimizer", "lr", "keys"), CASES)
@pytest.mark.parametrize("client_lr", [None, 0.05])
def test_steps_equal_the_reference_on_the_pseudo_gradient(optimizer, lr, keys, client_lr):
    """Of six rounds the third brings nothing of the group: its steps are counted, not the rounds."""
    server = strategy(optimizer=optimizer, lr=lr, client_lr=client_lr, **keys)
    scale = client_lr or server.federation.config.local.task.lr
    groups = model()
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in groups[TASK].items()}
    reference = REFERENCES[optimizer](list(parameters.values()), lr, keys)
    for round_ in (1, 2, 4, 5, 6):
        size = 0.1 ** (round_ % 3)  # gradients that shrink and grow: v falls and rises
        drifts = [{n: t + size * scale * state(10 * round_ + i)[n] for n, t in groups[TASK].items()} for i in range(2)]
        for name, parameter in parameters.items():
            average = torch.stack([drift[name] for drift in drifts]).mean(0)
            parameter.grad = (groups[TASK][name] - average) / scale
        reference.step()
        groups = play(server, round_, groups, [{TASK: drift} for drift in drifts])
        close(groups[TASK], {name: parameter.detach() for name, parameter in parameters.items()})
        groups = play(server, 3, groups, [{GENERATOR: state(3)}]) if round_ == 2 else groups


@adaptive
@pytest.mark.parametrize("task_lr", [1e-4, 0.5])
def test_the_first_adaptive_step_has_the_default_lr_whatever_the_sites_lr(optimizer, task_lr):
    server, groups = strategy(local={"task": {"lr": task_lr}}, optimizer=optimizer), model()
    moved = play(server, 1, groups, [{TASK: {n: t + task_lr for n, t in groups[TASK].items()}}])[TASK]
    for name, tensor in moved.items():
        torch.testing.assert_close(tensor - groups[TASK][name], torch.full_like(tensor, 0.03), rtol=2e-3, atol=1e-6)


@adaptive
def test_client_lr_acts_through_tau_alone(optimizer):
    one, two = (
        strategy(optimizer=optimizer, client_lr=0.1, tau=0.5),
        strategy(optimizer=optimizer, client_lr=1, tau=0.05),
    )
    sent = [{TASK: {n: t + 0.1 * state(5)[n] for n, t in model()[TASK].items()}}]
    close(*(play(server, 1, model(), sent)[TASK] for server in (one, two)))


MOMENTS = {"beta1", "beta2", "tau"}
READ = {"sgd": {"momentum"}, "adam": MOMENTS, "yogi": MOMENTS, "adagrad": {"tau"}}
UNREAD = [(name, key) for name in RULES for key in sorted({"momentum", *MOMENTS} - READ[name])]


@pytest.mark.parametrize(("optimizer", "key"), UNREAD)
def test_a_key_that_the_optimiser_does_not_read_is_refused(optimizer, key):
    default = FedOptParams.model_fields[key].default
    message = rf"^strategy\.{key}: expected its default, {default}, with optimizer {optimizer} \(it uses .*"
    message += rf"found 0\.25; leave it out, or set it to {default}$"
    with pytest.raises(ConfigError, match=message):
        strategy(optimizer=optimizer, **{key: 0.25})
    strategy(optimizer=optimizer, **{key: default})


def test_client_lr_without_lr_is_refused_where_it_cancels_out():
    with pytest.raises(ConfigError, match=r"^strategy\.client_lr: expected none without lr .*found 0\.1$"):
        strategy(client_lr=0.1)


def test_an_unknown_optimiser_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"^strategy\.optimizer: .*'sgd', 'adam', 'yogi' or 'adagrad', found 'lamb'$"):
        strategy(optimizer="lamb")


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


@optimizers
def test_a_group_that_nobody_returned_keeps_its_parameters_and_state(optimizer):
    server = strategy(optimizer=optimizer)
    first = play(server, 1, model(), [{TASK: state(5), GENERATOR: state(6)}])
    kept = {name: tensor.clone() for name, tensor in server.state()[TASK].items()}
    second = play(server, 2, first, [{GENERATOR: state(8)}])
    assert kept and same({TASK: second[TASK]}, {TASK: first[TASK]})
    assert same(server.state(), {TASK: kept})


@optimizers
def test_state_that_a_checkpoint_kept_goes_on_to_the_byte(optimizer, tmp_path):
    through, groups = strategy(optimizer=optimizer), model()
    for round_ in (1, 2):
        groups = play(through, round_, groups, [{TASK: state(5 * round_)}])
    save(tmp_path, Training(2, groups, strategy=through.state()))
    resumed = strategy(optimizer=optimizer)
    resumed.load_state(load_newest(tmp_path).strategy)
    forgetful = play(strategy(optimizer=optimizer), 3, groups, [{TASK: state(6)}])
    after = [play(server, 3, groups, [{TASK: state(6)}]) for server in (through, resumed)]
    assert same(*after) and same(through.state(), resumed.state())
    assert not torch.allclose(forgetful[TASK]["w"], after[0][TASK]["w"])


@optimizers
def test_a_step_changes_neither_what_it_was_given_nor_a_state_handed_out_before(optimizer):
    server, old, average = strategy(optimizer=optimizer), state(0), state(5)
    server.server_step(TASK, old, average)
    handed = server.state()
    before = {name: tensor.clone() for name, tensor in handed[TASK].items()}
    server.server_step(TASK, old, average)
    assert same({"old": old, "average": average}, {"old": state(0), "average": state(5)})
    assert same(handed, {TASK: before}) and not same(server.state(), handed)


def test_weighting_by_samples_reaches_the_average():
    server = strategy(weighting="samples", lr=0.1, momentum=0.0, client_lr=0.1)
    server.train_messages(1, model())
    updated, _ = server.aggregate(1, [reply({TASK: state(5)}, 1), reply({TASK: state(6)}, 3)])
    found = updated[TASK]
    expected = np.average([state(5)["w"], state(6)["w"]], axis=0, weights=[1, 3])
    np.testing.assert_allclose(found["w"].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert server.federation.trained == {TASK: 4}

"""The contract of every strategy (a new file needs no edit here), also with every optimizer of fedopt."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flwr.app import ArrayRecord, ConfigRecord, Message
from pydantic import ValidationError

from fedrecon_core.config import parse
from fedrecon_core.data.allocation import Share, allocate
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import combine, site_sums
from fedrecon_core.local.evaluate import predict
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.local.local_round import TrainRequest, train_locally
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.registry import CORE_PACKAGES, STRATEGIES, discover
from fedrecon_core.state import (
    EXTRACTORS,
    HEAD_GROUP,
    STRATEGY_GROUPS,
    State,
    group_bytes,
    parameters_sha256,
    write_group,
)
from server.engines.base import Job
from server.engines.inprocess import InProcessGrid
from server.engines.pool import Here
from server.federation.messaging import Deadline, WireMeter, exchange
from server.training.checkpoints import Training, load_newest, save
from strategies import messages
from strategies.federation import Federation
from strategies.messages import SiteInfo, TrainReply
from strategies.server_optimizers import RULES
from tests.helpers.contract_support import accepted, same, states
from tests.helpers.toy import CPU, MemoryStore, tiny_dataset, toy_recovery, toy_settings

GAPS = {"train": {"level": "site", "rate": 0.4}}


@dataclass
class Bench:
    """A strategy over four sites of the toy; ``grid`` takes messages straight to the local loop, in their order."""

    strategy: Any
    federation: Federation
    recovery: Recovery
    data: dict[str, SiteData]
    shelves: dict[str, MemoryStore]

    def __post_init__(self) -> None:
        job = Job(Path("config.yaml"), Path("run"), False, sites=len(self.data))
        self.grid = InProcessGrid(job, Here(lambda message, context: self.answer(message)))  # type: ignore[arg-type]
        self.federation.nodes = dict(zip(sorted(self.data), self.grid.get_node_ids(), strict=True))

    def initial(self) -> dict[str, State]:
        """The groups before the first round."""
        return states(self.recovery.build())

    def configure(self, round_: int, groups: dict[str, State]) -> list[Message]:
        """The messages of a round."""
        made = self.strategy.train_messages(round_, groups)
        assert isinstance(made, list)
        return made

    def answer(self, message: Message) -> Message:
        """The site's reply to ``message``."""
        name = {node: name for name, node in self.federation.nodes.items()}[message.metadata.dst_node_id]
        sent = messages.read_groups(message.content)
        plan = self.recovery.plan(self.data[name].modalities)
        request = TrainRequest(
            site=name,
            recovery=self.recovery,
            data=self.data[name],
            plan=plan,
            received={group: state for group, state in sent.items() if not group.startswith(STRATEGY_GROUPS)},
            global_info=messages.read_global_info(message.content),
            store=self.shelves[name],
            hook=self.strategy.local_half(self.strategy.params),
            strategy_groups={group: state for group, state in sent.items() if group.startswith(STRATEGY_GROUPS)},
        )
        result = train_locally(request, self.recovery.build(plan.download))
        reply = TrainReply.of(result, len(self.data[name]), 0.0, 0.0, self.federation.sites[name].identity)
        return Message(messages.write_train_reply(reply), reply_to=message)

    def replies(self, round_: int, groups: dict[str, State]) -> list[TrainReply]:
        """The replies of all sampled sites, in site order, after they have travelled."""
        return [messages.read_train_reply(self.answer(m).content) for m in self.configure(round_, groups)]

    def round(self, round_: int, groups: dict[str, State]) -> dict[str, State]:
        """Configure, train every sampled site, aggregate."""
        updated: dict[str, State] = self.strategy.aggregate(round_, self.replies(round_, groups))[0]
        return updated


def bench_of(name: Any, recovery: Any = "fedrecon", **sections: Any) -> Bench:
    """A strategy with its federation of four sites, one of which may lack what another has."""
    settings = accepted(toy_settings(recovery, name, **{"missing": GAPS, **sections}))
    config = parse(settings)
    dataset = tiny_dataset()
    made = toy_recovery(recovery, **{"missing": GAPS, **sections, "local": settings["local"]})
    shares: dict[str, Share] = allocate(dataset, config).train
    data = {site: open_site(dataset, share.samples, share.present, device=CPU) for site, share in shares.items()}
    sites = {
        site: SiteInfo(site, "", "", opened.modalities, len(opened), site_sums(opened)) for site, opened in data.items()
    }
    federation = Federation(
        config,
        dataset.spec,
        "",
        sites,
        nodes={},
        plans={site: made.plan(info.modalities) for site, info in sites.items()},
        shares=shares,
        statistics=combine([sites[site].sums for site in sorted(sites)]),
    )
    strategy: Any = STRATEGIES.get(config.strategy.name)
    return Bench(strategy(federation), federation, made, data, {site: MemoryStore() for site in sites})


def names_of(bench: Bench, sent: list[Message]) -> list[str]:
    """The sites that ``sent`` goes to, in its order."""
    names = {node: name for name, node in bench.federation.nodes.items()}
    return [names[message.metadata.dst_node_id] for message in sent]


# --- keys -----------------------------------------------------------------------------------------------------------


def check_params_have_valid_defaults_and_carry_the_name(name: str) -> None:
    params = STRATEGIES.get(name).Params
    assert params().name == name
    with pytest.raises(ValidationError):
        params(**{"name": name, "no_such_key": 1})
    config = parse(accepted(toy_settings("mask", name)))
    again = parse(yaml.safe_load(config.to_yaml()))
    assert again == config and type(again.strategy) is params


def check_local_half_is_a_hook(name: str) -> None:
    cls: Any = STRATEGIES.get(name)
    hook = cls.local_half(cls.Params())
    assert isinstance(hook, LocalHook)


def check_summary_can_be_logged(name: str) -> None:
    bench_of(name).strategy.summary()


# --- configuring ----------------------------------------------------------------------------------------------------


def check_every_site_gets_the_bytes_of_its_plan_and_what_travels_beside_it(name: str) -> None:
    bench = bench_of(name)
    groups = bench.initial()
    for message, site in zip(sent := bench.configure(1, groups), names_of(bench, sent), strict=True):
        plan = bench.federation.plan(site)
        extra = bench.strategy.strategy_groups(plan.download)
        assert all(group.startswith(STRATEGY_GROUPS) for group in extra)
        due = {**{group: groups[group] for group in plan.download}, **extra}
        sent_groups = messages.read_groups(message.content)
        assert sum(map(group_bytes, sent_groups.values())) == sum(map(group_bytes, due.values()))
        assert same(sent_groups, due)


def check_no_message_is_larger_than_everything(name: str) -> None:
    bench = bench_of(name)
    groups = bench.initial()
    full = bench.strategy.full_bytes(groups)
    sent = bench.configure(1, groups)
    extra = bench.strategy.strategy_groups(groups)
    assert full == sum(map(group_bytes, groups.values())) + sum(map(group_bytes, extra.values()))
    for message in (*sent, *map(bench.answer, sent)):
        assert 0 < sum(messages.group_sizes(message.content).values()) <= full


def check_messages_carry_instruction_and_global_info(name: str) -> None:
    bench = bench_of(name)
    bench.federation.trained["task.head"] = 7
    for message, site in zip(sent := bench.configure(3, bench.initial()), names_of(bench, sent), strict=True):
        assert message.metadata.message_type.startswith("train.")
        instruction, share = messages.read_instruction(message.content), bench.federation.shares[site]
        assert instruction.round == 3 and instruction.share is not None
        assert np.array_equal(instruction.share.samples, share.samples) and np.array_equal(
            instruction.share.present, share.present
        )
        assert messages.read_global_info(message.content).trained["task.head"] == 7


def check_sites_are_sampled_by_name_and_round_alone(name: str) -> None:
    drawn = []
    for order in (1, -1):
        bench = bench_of(name, "mask", sites={"count": 4, "fraction": 0.5})
        nodes = bench.federation.nodes
        bench.federation.nodes = dict(zip(sorted(nodes), sorted(nodes.values())[::order], strict=True))
        drawn.append([names_of(bench, bench.configure(round_, bench.initial())) for round_ in range(1, 9)])
    assert drawn[0] == drawn[1]
    assert all(len(names) == len(set(names)) == 2 for names in drawn[0])
    assert len({tuple(sorted(names)) for names in drawn[0]}) > 1, "every round draws the same sites"


def check_sites_without_samples_are_left_alone(name: str) -> None:
    bench = bench_of(name, "mask")
    idle = sorted(bench.federation.sites)[0]
    info = bench.federation.sites[idle]
    bench.federation.sites[idle] = SiteInfo(idle, "", "", (), 0, info.sums)
    assert idle not in names_of(bench, bench.configure(1, bench.initial()))


# --- aggregating ----------------------------------------------------------------------------------------------------


def check_order_of_arrival_does_not_matter(name: str) -> None:
    outcomes = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        bench = bench_of(name)
        sent = bench.configure(1, bench.initial())
        replies = exchange(bench.grid, [sent[index] for index in order], Deadline(600), WireMeter())
        assert not replies.failures
        decoded = replies.decode(lambda _, content: messages.read_train_reply(content))
        updated, losses = bench.strategy.aggregate(1, list(decoded.received.values()))
        outcomes.append((parameters_sha256(updated), losses, bench.federation.quality))
    assert outcomes[0] == outcomes[1]


def check_a_round_trains_what_was_returned_and_nothing_else(name: str) -> None:
    bench = bench_of(name)
    before = bench.initial()
    replies = bench.replies(1, before)[:1]
    returned = set(replies[0].groups) & set(before)
    after, losses = bench.strategy.aggregate(1, replies)
    assert after.keys() == before.keys()
    for group in before:
        assert same({group: after[group]}, {group: before[group]}) == (group not in returned), group
        assert (bench.federation.trained.get(group, 0) > 0) == (group in returned), group
        assert all(after[group][key].dtype == tensor.dtype for key, tensor in before[group].items())
    assert all(torch.isfinite(tensor).all() for state in after.values() for tensor in state.values())
    assert np.isfinite(losses["task"])


def check_flowers_own_interface_gives_the_same(name: str) -> None:
    """One round as Flower's strategy loop would drive it: flat arrays, messages, flat arrays."""
    ours, flowers = bench_of(name), bench_of(name)
    groups = ours.initial()
    updated, losses = ours.strategy.aggregate(1, ours.replies(1, groups))
    sent = flowers.strategy.configure_train(1, messages.flatten(groups), ConfigRecord(), flowers.grid)
    arrays, metrics = flowers.strategy.aggregate_train(1, [flowers.answer(message) for message in sent])
    assert isinstance(sent, list) and isinstance(arrays, ArrayRecord)
    assert same(messages.unflatten(arrays), updated) and dict(metrics) == losses


def check_no_reply_at_all_gives_nothing(name: str) -> None:
    bench = bench_of(name, "mask")
    bench.configure(1, bench.initial())
    after, losses = bench.strategy.aggregate(1, [])
    assert same(after, bench.initial()) and losses == {}
    assert bench.strategy.aggregate_train(1, []) == (None, None)


def check_a_group_that_nobody_returned_keeps_its_state(name: str) -> None:
    bench = bench_of(name, "mask")
    groups = bench.round(1, bench.initial())
    replies = bench.replies(2, groups)
    absent = min(group for group in bench.federation.trained if group.startswith(EXTRACTORS))
    for reply in replies:
        for record in (reply.counts, reply.real, reply.groups):
            record.pop(absent, None)
    kept, trained = copy.deepcopy(bench.strategy.state()), bench.federation.trained[absent]
    after = bench.strategy.aggregate(2, replies)[0]
    assert same({absent: after[absent]}, {absent: groups[absent]})
    assert bench.federation.trained[absent] == trained
    mine = {key: state for key, state in kept.items() if absent in key}
    assert same({key: bench.strategy.state()[key] for key in mine}, mine)


def check_state_taken_up_again_continues_to_the_byte(name: str) -> None:
    first, second = bench_of(name, "mask"), bench_of(name, "mask")
    groups = first.round(1, first.initial())
    state = {key: {n: t.clone() for n, t in tensors.items()} for key, tensors in first.strategy.state().items()}
    second.strategy.load_state(state)
    second.federation.trained.update(first.federation.trained)
    second.federation.quality.update(first.federation.quality)
    second.shelves = copy.deepcopy(first.shelves)
    for round_ in (2, 3):
        groups = first.round(round_, straight := groups)
        resumed = second.round(round_, straight)
        assert parameters_sha256(resumed) == parameters_sha256(groups)
    assert same(first.strategy.state(), second.strategy.state())


def check_state_survives_a_checkpoint(name: str, folder: Path) -> None:
    bench = bench_of(name)
    groups = bench.round(1, bench.initial())
    save(folder, Training(1, groups, strategy=bench.strategy.state()))
    again = load_newest(folder)
    assert again is not None and same(again.strategy, bench.strategy.state()) and same(again.groups, groups)


def check_its_defaults_learn_whatever_the_sites_optimiser(name: str) -> None:
    adam = {"epochs": 4, "batch": 6, "lr": 0.01}
    sgd = {**adam, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
    stands = [task for task in (adam, sgd) if _stands_beside(name, task)]
    assert sgd in stands
    for task in stands:
        bench = bench_of(name, "mask", missing={}, local={"task": task})
        groups = bench.initial()
        for round_ in range(1, 65):
            groups = bench.round(round_, groups)
            if round_ >= 8 and (_as_trained_as_in(8, bench) or held_out_accuracy(bench, groups) > 0.7):
                break
        assert held_out_accuracy(bench, groups) > 0.7, f"chance is 0.33 ({task})"


def _as_trained_as_in(rounds: int, bench: Bench) -> bool:
    """Whether the model was averaged over as many samples as all sites bring in so many rounds: a strategy that takes
    a share of the sites needs more rounds."""
    return bench.federation.trained.get(HEAD_GROUP, 0) >= rounds * sum(map(len, bench.data.values()))


def _stands_beside(name: str, task: dict[str, Any]) -> bool:
    """Whether the strategy does not refuse ``task``, with words of what to set in its place."""
    settings = toy_settings("mask", name, local={"task": task})
    return accepted(settings) == settings


def held_out_accuracy(bench: Bench, groups: dict[str, State]) -> float:
    """The accuracy of ``groups`` on complete test samples, of which a third are of each class."""
    dataset, modules = tiny_dataset(), bench.recovery.build()
    for group, module in modules.items():
        write_group(module, groups[group])
    members = dataset.members(2)
    data = open_site(dataset, members, np.ones((len(members), len(dataset.spec.names)), dtype=bool), device=CPU)
    found = predict(bench.recovery, modules, bench.federation.global_info(9), data, "test")
    return float((found.logits.argmax(dim=1) == data.labels).double().mean())


# --- evaluation -----------------------------------------------------------------------------------------------------


def check_evaluation_pools_what_the_sites_count(name: str) -> None:
    bench = bench_of(name)
    federation, groups = bench.federation, bench.initial()
    federation.held_out["test"] = dict(federation.shares)
    federation.held_out_plans["test"] = dict(federation.plans)
    config = ConfigRecord({"split": "test"})
    sent = bench.strategy.configure_evaluate(1, messages.flatten(groups), config, bench.grid)
    assert isinstance(sent, list) and names_of(bench, sent) == sorted(federation.sites)
    scores = []
    for message, site in zip(sent, names_of(bench, sent), strict=True):
        assert sorted(messages.read_groups(message.content)) == list(federation.plan(site, "test").download)
        modules = bench.recovery.build(federation.plan(site).download)
        for group, module in modules.items():
            write_group(module, groups[group])
        data = bench.data[site]
        scores.append(predict(bench.recovery, modules, federation.global_info(1), data, site).score(data))
    replies = [
        Message(messages.write_scores({"test": score}), reply_to=m) for score, m in zip(scores, sent, strict=True)
    ]
    pooled = messages.read_scores(bench.strategy.aggregate_evaluate(1, replies), bench.recovery.spec)["test"]
    assert pooled.counts.samples == sum(map(len, bench.data.values()))
    assert np.array_equal(pooled.counts.confusion, sum(score.counts.confusion for score in scores))
    assert pooled.loss_sum == pytest.approx(sum(score.loss_sum for score in scores))


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]
LONG = {check_its_defaults_learn_whatever_the_sites_optimiser}
"""Those that train for many rounds, which the inner loop does not wait for."""


# --- every registered strategy against its contract; a new file in ``strategies`` is tested here with no  ------------


discover((*CORE_PACKAGES, "strategies"))


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, marks=() if check in LONG else pytest.mark.quick) for check in CHECKS],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
@pytest.mark.parametrize("name", STRATEGIES.names())
def test_strategy(name, check, tmp_path):
    arguments = (name, tmp_path) if "folder" in inspect.signature(check).parameters else (name,)
    check(*arguments)


# --- every optimiser of ``fedopt`` against those promises of a strategy that touch what the server makes  ------------


SITES = {
    "slow adam": {"epochs": 4, "batch": 6, "lr": 0.001},
    "fast sgd": {"epochs": 4, "batch": 6, "lr": 0.05, "optimizer": "sgd", "momentum": 0.9},
}
OPTIMIZER_CHECKS = (
    check_a_group_that_nobody_returned_keeps_its_state,
    check_a_round_trains_what_was_returned_and_nothing_else,
    check_order_of_arrival_does_not_matter,
    check_state_taken_up_again_continues_to_the_byte,
)
optimizers = pytest.mark.parametrize("optimizer", sorted(RULES))


def fedopt(optimizer):
    return {"name": "fedopt", "optimizer": optimizer}


@optimizers
@pytest.mark.parametrize("check", OPTIMIZER_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
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

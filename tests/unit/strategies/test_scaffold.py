"""``scaffold`` on bowls, through the real local round, messages and server half; what it refuses."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedrecon_core.config import Updates
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.local.hook import HookState, StageStats
from fedrecon_core.local.local_round import train_locally
from fedrecon_core.state import STRATEGY_GROUPS, State, group_bytes
from server.engines.base import Job
from server.engines.inprocess import InProcessGrid
from server.engines.pool import Here
from server.federation.update_norms import judge
from strategies import messages
from strategies.messages import SiteInfo
from strategies.scaffold import Scaffold, gradients_in
from tests.helpers.bowls import CENTRE, CURVATURE, HEAD, LR, NAMES, SIZE, SOME, STEPS, Point, World, train, world
from tests.helpers.contract_support import fault_of, local_round, same
from tests.helpers.toy import everything, tiny_dataset, toy_config, toy_recovery, toy_site


@pytest.fixture(autouse=True)
def _grid():
    """Create a grid: Flower creates messages only in a process that has set a run."""
    InProcessGrid(Job(Path("config.yaml"), Path("run"), False, sites=2), Here(None)).close()


# --- where it leads ---------------------------------------------------------------------------------------------------

OPTIMUM = (CURVATURE * CENTRE).sum(0) / CURVATURE.sum(0)
SHRINK = 1 - (1 - LR * CURVATURE) ** STEPS
DRIFTED = (SHRINK * CENTRE).sum(0) / SHRINK.sum(0)
"""Where the mean of the sites' ways is zero: a site goes the share 1 - (1 - lr a)^steps of its way to its centre."""


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_reaches_the_optimum_of_the_mean(momentum):
    np.testing.assert_allclose(train(world(momentum=momentum), 25).model(), OPTIMUM, atol=1e-5)


def test_it_reaches_the_optimum_where_two_of_five_sites_train_in_a_round():
    np.testing.assert_allclose(train(world(fraction=0.4), 50).model(), OPTIMUM, atol=1e-4)


def test_fedavg_stays_away_from_it():
    np.testing.assert_allclose(train(world("fedavg"), 25).model(), DRIFTED, atol=1e-5)
    assert np.linalg.norm(DRIFTED - OPTIMUM) > 0.2


def test_the_plain_variates_swing_ever_wider_with_much_momentum():
    """Five steps hold 13 gradients at momentum 0.9, 2.6 times what they are divided by."""
    plain = world({"name": "scaffold", "variate": "plain"}, momentum=0.9)
    widest = [max(np.abs(site.variate()).max() for site in train(plain, 3).sites.values()) for _ in range(4)]
    assert widest[3] > 1.5 * widest[2] > 2 * widest[1]
    steady = train(world(momentum=0.9), 12)
    assert widest[3] > 10 * max(np.abs(site.variate()).max() for site in steady.sites.values())


def test_weighting_by_samples_leads_to_the_optimum_of_the_weighted_mean():
    found, counts = world({"name": "scaffold", "weighting": "samples"}), np.array([1, 7, 2, 1, 4])
    for name, count in zip(NAMES, counts, strict=True):
        found.sites[name].samples = int(count)
        found.server.federation.sites[name] = SiteInfo(name, "", "", ("picture",), int(count), {})
    weighted = (counts[:, None] * CURVATURE * CENTRE).sum(0) / (counts[:, None] * CURVATURE).sum(0)
    np.testing.assert_allclose(train(found, 60).model(), weighted, atol=1e-5)
    assert np.linalg.norm(weighted - OPTIMUM) > 0.2


# --- every step, against Algorithm 1 written anew -------------------------------------------------------------------


def local(x, c, own, site, momentum, plain):
    """Line 6 to 13 at one site: its new x, and its new c_i."""
    y, velocity, weights, weight = x.copy(), np.zeros(SIZE), 0.0, 0.0
    for _ in range(STEPS):
        gradient = CURVATURE[site] * (y - CENTRE[site])
        velocity = momentum * velocity + gradient - own + c
        y = y - LR * velocity
        weight = momentum * weight + 1
        weights += weight
    return y, own - c + (x - y) / (LR * (STEPS if plain else weights))


@pytest.mark.parametrize(
    ("keys", "momentum"),
    [
        ({}, 0.0),
        ({"lr": 0.7}, 0.0),
        ({"variate": "plain"}, 0.0),
        ({"variate": "plain"}, 0.5),
        ({"lr": 1.3}, 0.9),
    ],
)
def test_every_round_of_part_of_the_sites_is_that_of_the_algorithm(keys, momentum):
    found = world({"name": "scaffold", **keys}, momentum=momentum, fraction=0.6)
    x, c, own = np.zeros(SIZE), np.zeros(SIZE), np.zeros((len(NAMES), SIZE))
    drawn = set()
    for round_ in range(1, 11):
        chosen = [NAMES.index(name) for name in found.round(round_)]
        drawn.add(tuple(chosen))
        after = {i: local(x, c, own[i], i, momentum, keys.get("variate") == "plain") for i in chosen}
        x = x + keys.get("lr", 1.0) * np.mean([y - x for y, _ in after.values()], axis=0)
        c = c + sum(new - own[i] for i, (_, new) in after.items()) / len(NAMES)
        for i, (_, new) in after.items():
            own[i] = new
        np.testing.assert_allclose(found.model(), x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.variate(), c, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose([site.variate() for site in found.sites.values()], own, rtol=1e-10, atol=1e-12)
    assert len(drawn) > 3


# --- the variates at a site -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_gradients_in_the_steps_are_those_that_sgd_counts(momentum, steps):
    point = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([point], lr=0.25, momentum=momentum)
    for _ in range(steps):
        point.grad = torch.ones_like(point)
        optimizer.step()
    assert gradients_in(StageStats(steps, 0.25, momentum)) == pytest.approx(-point.item() / 0.25, rel=1e-10)


def test_a_parameter_without_a_gradient_is_corrected_and_has_the_variate_zero():
    found = world()
    found.round(1)
    lost = found.sites[NAMES[0]]
    lost.bowls = {HEAD: (np.zeros(SIZE), np.zeros(SIZE))}
    c, own = found.variate(), lost.variate()
    [reply] = [found.answer(m) for m in found.configure(2) if messages.addressee(m) == NAMES[0]]
    trained = messages.read_groups(reply.content)[HEAD]["x"].numpy()
    np.testing.assert_allclose(trained, found.model() - STEPS * LR * (c - own))
    np.testing.assert_allclose(lost.variate(), 0.0, atol=1e-12)


def test_no_gradient_at_all_counts_as_zero():
    point, hook = Point(), Scaffold.local_half(Scaffold.Params())
    sent = {"x": torch.tensor([1.0, 2.0, 3.0]).double()}
    context: Any = SimpleNamespace(groups={HEAD: point})
    hook.begin(
        context, HookState({HEAD: {"x": torch.ones(SIZE).double()}}, {f"{STRATEGY_GROUPS}scaffold.{HEAD}": sent})
    )
    for grad, expected in ((None, [0.0, 1.0, 2.0]), (torch.ones(SIZE).double(), [1.0, 2.0, 3.0])):
        point.x.grad = grad
        for _ in range(2):  # the correction itself must not grow with what is added to it
            point.x.grad = None if grad is None else grad.clone()
            hook.gradients([(f"{HEAD}/x", point.x), ("task.other/x", Point().x)])
        assert point.x.grad is not None and point.x.grad.tolist() == expected


@pytest.mark.parametrize(("present", "real"), [(("features",), 0), (("features", "picture"), 48)])
def test_a_variate_saw_something_real_where_its_group_did(present, real):
    recovery, data = toy_recovery("zero", local={"task": {"optimizer": "sgd"}}), site_with(*present)
    job, _, modules = local_round(recovery, data)
    beside = {f"{STRATEGY_GROUPS}scaffold.{group}": zeros(state) for group, state in job.received.items()}
    hook = Scaffold.local_half(Scaffold.Params())
    result = train_locally(replace(job, strategy_groups=beside, hook=hook), modules)
    assert result.real[f"{STRATEGY_GROUPS}scaffold.{SOME}"] == result.real[SOME] == real
    assert result.real[f"{STRATEGY_GROUPS}scaffold.{HEAD}"] == 48
    assert set(result.real) == set(result.groups) == {*job.received, *beside}


def site_with(*modalities: str) -> SiteData:
    dataset, present = tiny_dataset(), everything(48)
    present[:, [name not in modalities for name in dataset.spec.names]] = False
    return toy_site(dataset, present)


def zeros(state: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def test_a_group_that_a_site_does_not_train_keeps_its_variate_there():
    found = world()
    found.round(1)
    site = found.sites[NAMES[0]]
    kept = site.variate(SOME)
    site.bowls = {HEAD: site.bowls[HEAD]}
    found.round(2)
    assert np.array_equal(site.variate(SOME), kept) and np.abs(kept).max() > 0


def test_a_site_that_diverged_once_takes_part_again():
    found = world()
    found.round(1)
    site = found.sites[NAMES[0]]
    sound, kept = site.bowls, site.variate()
    site.bowls = {HEAD: (np.full(SIZE, np.inf), np.zeros(SIZE))}
    found.round(2, silent=NAMES[1:])
    assert np.array_equal(site.variate(), kept)
    site.bowls, found.x = sound, world().x
    found.server.load_state({})
    found.round(3)
    assert np.isfinite(found.model()).all() and not np.array_equal(site.variate(), kept)


# --- the variates at the server ---------------------------------------------------------------------------------------


def test_n_counts_the_sites_that_hold_the_group_and_have_samples():
    found = world()
    found.round(1, silent=NAMES[1:])
    own = found.sites[NAMES[0]]
    np.testing.assert_allclose(found.variate(HEAD), own.variate(HEAD) / 5)
    np.testing.assert_allclose(found.variate(SOME), own.variate(SOME) / 2)
    info = found.server.federation.sites
    info[NAMES[4]] = SiteInfo(NAMES[4], "", "", (), 0, {})
    np.testing.assert_allclose(found.variate(HEAD), own.variate(HEAD) / 4)


def test_c_is_still_the_mean_of_all_sites_when_one_joins_later():
    found, late = world(), NAMES[4]
    federation = found.server.federation
    node, plan = federation.nodes.pop(late), federation.plans.pop(late)
    for round_ in (1, 2):
        assert late not in found.round(round_)
    federation.nodes[late], federation.plans[late] = node, plan
    for round_ in (3, 4):
        found.round(round_)
        np.testing.assert_allclose(found.variate(), np.mean([s.variate() for s in found.sites.values()], axis=0))


def test_a_group_that_nobody_returned_keeps_its_c():
    found = world()
    found.round(1)
    model, c = found.model(SOME), found.variate(SOME)
    found.round(2, silent=NAMES[:2])
    assert np.array_equal(found.model(SOME), model) and np.array_equal(found.variate(SOME), c)
    assert np.abs(c).max() > 0


def test_groups_outside_the_prefixes_are_plain_averages_and_travel_alone():
    found, plain = world({"name": "scaffold", "groups": ["task.extractor."], "lr": 0.5}), world("fedavg")
    train(found, 2)
    train(plain, 2)
    assert np.array_equal(found.model(HEAD), plain.model(HEAD))
    assert not np.allclose(found.model(SOME), plain.model(SOME))
    assert list(found.server.strategy_groups([HEAD, SOME])) == [f"{STRATEGY_GROUPS}scaffold.{SOME}"]


def test_counts_of_what_trained_the_model_do_not_name_the_variates():
    found = train(world(), 2)
    assert found.server.federation.trained == {HEAD: 10, SOME: 4}
    assert set(found.x) == {HEAD, SOME}


def test_everything_that_a_site_may_be_sent_holds_the_variates():
    found = world()
    assert found.server.full_bytes(found.x) == 2 * sum(map(group_bytes, found.x.values()))
    found = world({"name": "scaffold", "groups": [HEAD]})
    assert found.server.full_bytes(found.x) == 2 * group_bytes(found.x[HEAD]) + group_bytes(found.x[SOME])
    resumed = train(world(), 2)
    assert resumed.server.full_bytes(resumed.x) == 2 * sum(map(group_bytes, resumed.x.values()))


def test_what_was_saved_and_loaded_at_both_ends_goes_on_to_the_byte():
    straight, resumed = train(world(fraction=0.6), 3), world(fraction=0.6)
    resumed.server.load_state({g: {n: t.clone() for n, t in s.items()} for g, s in straight.server.state().items()})
    resumed.x = straight.x
    for name, site in straight.sites.items():
        shutil.copytree(site.folder, resumed.sites[name].folder)
    resumed.server.federation.accepted.update(straight.server.federation.accepted)
    for round_ in (4, 5, 6):
        straight.round(round_)
        resumed.round(round_)
        assert same(straight.x, resumed.x)
    assert same(straight.server.state(), resumed.server.state())


# --- what the server did not accept ---------------------------------------------------------------------------------


def in_step(found: World, group: str = HEAD) -> bool:
    """Whether the server's sum is that of the c_i with which the sites would go on."""
    own = sum(found.held(name, group) for name, site in found.sites.items() if group in site.bowls)
    return np.allclose(found.server.state()[group]["x"].numpy(), own, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rounds", [(1,), (3,), (3, 4, 5, 6, 7, 8)])
def test_replies_that_are_lost_after_the_work_leave_the_variates_in_step(rounds):
    found = world()
    for round_ in range(1, 31):
        found.round(round_, lost=NAMES[:1] if round_ in rounds else ())
        assert in_step(found) and in_step(found, SOME)
    np.testing.assert_allclose(found.model(), OPTIMUM, atol=1e-5)


def test_a_lost_reply_is_as_if_the_site_had_not_been_asked():
    silent, lost = world(), world()
    for round_ in range(1, 5):
        silent.round(round_, silent=NAMES[1:3] if round_ == 2 else ())
        lost.round(round_, lost=NAMES[1:3] if round_ == 2 else ())
    assert same(silent.x, lost.x) and same(silent.server.state(), lost.server.state())


def test_a_round_that_is_repeated_with_other_answers_counts_once():
    """Below the quorum: the first attempt reaches two sites, the second all."""
    straight, repeated = train(world(), 4), train(world(), 2)
    for message in repeated.configure(3)[:2]:
        repeated.answer(message)
    for round_ in (3, 4):
        repeated.round(round_)
    assert same(straight.x, repeated.x) and in_step(repeated)


def test_a_server_that_goes_back_asks_for_what_it_had_accepted_then():
    """It had accepted round 4 of all sites but one, and that one's before round 3 was lost."""
    found = world()
    found.round(1)
    found.round(2, lost=NAMES[:1])
    before = found.server.federation.accepted.copy(), found.x, found.server.state()
    for round_ in (3, 4):
        found.round(round_, lost=NAMES[1:2])
    expected = found.x
    found.server.federation.accepted, found.x = before[0], before[1]
    found.server.load_state(before[2])
    for round_ in (3, 4):
        assert in_step(found)
        found.round(round_, lost=NAMES[1:2])
    assert same(found.x, expected)


def test_a_site_that_lost_its_variate_is_refused_and_its_last_word_stands():
    found, lost = train(world(), 3), NAMES[1]
    held, folder = found.held(lost), found.sites[lost].folder
    shutil.rmtree(folder)
    words = rf"^state folder {folder}: expected 'hook' of round 3, .* found no version; restore it from a backup; .*"
    [message] = [m for m in found.configure(4) if messages.addressee(m) == lost]
    with pytest.raises(DataError, match=words):
        found.answer(message)
    assert not folder.exists()
    others = [name for name in NAMES if name != lost]
    for round_ in range(4, 64):
        found.round(round_, silent=[lost])
    own = [NAMES.index(name) for name in others]
    alone = (CURVATURE * CENTRE)[own].sum(0) - held  # the others' gradients and this one add up to zero there
    np.testing.assert_allclose(found.model(), alone / CURVATURE[own].sum(0), atol=1e-5)


def test_a_site_whose_folder_was_restored_goes_on_as_if_nothing_had_been():
    straight, restored = train(world(), 5), train(world(), 3)
    folder = restored.sites[NAMES[1]].folder
    shutil.copytree(folder, folder.with_name("backup"))
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("backup"), folder)
    for round_ in (4, 5):
        restored.round(round_)
    assert same(straight.x, restored.x)


MEDIAN = {"name": "scaffold", "robust": {"rule": "median", "groups": [HEAD]}}


def test_a_group_that_too_few_sent_for_a_robust_average_keeps_its_variates_at_the_sites_too():
    """Two of five send the group of all, of which a median needs three; of their other group the mean is taken."""
    found = train(world(MEDIAN), 2)
    kept, c, model = {name: found.held(name) for name in NAMES}, found.variate(), found.model()
    for round_ in (3, 4, 5, 6):
        some = {name: found.held(name, SOME) for name in NAMES[:2]}
        found.round(round_, silent=NAMES[2:])
        assert found.server.left_out == {HEAD}
        assert all(np.array_equal(found.held(name), own) for name, own in kept.items())
        assert np.array_equal(found.variate(), c) and np.array_equal(found.model(), model)
        assert in_step(found, SOME) and not any(np.array_equal(found.held(n, SOME), own) for n, own in some.items())
    found.round(7)
    assert found.server.left_out == set()
    straight = train(world(MEDIAN), 3)
    assert np.array_equal(found.model(), straight.model()) and np.array_equal(found.variate(), straight.variate())


def test_a_robust_average_of_too_few_variates_leaves_them_as_they_were():
    found = train(world(MEDIAN), 2)
    kept, replies = found.held(NAMES[4]), {messages.addressee(m): found.answer(m) for m in found.configure(3)}
    for name in NAMES[:3]:
        for record in (replies[name].content, replies[name].content["counts"]):
            del record[f"{STRATEGY_GROUPS}scaffold.{HEAD}"]
    c, model = found.variate(), found.model()
    found.configure(3)
    found.aggregate(3, replies)
    assert np.array_equal(found.held(NAMES[4]), kept) and np.array_equal(found.variate(), c)
    assert not np.array_equal(found.model(), model)


def lie(reply: Any, change: Any, group: str = HEAD) -> Any:
    """``reply`` with its variate of ``group`` changed."""
    name = f"{STRATEGY_GROUPS}scaffold.{group}"
    reply.content[name] = messages.bundle(change(messages.read_groups(reply.content)[name]))
    return reply


def test_a_robust_average_is_one_of_the_variates_too():
    found = world({"name": "scaffold", "robust": {"rule": "median", "groups": [HEAD]}})
    replies = [found.answer(message) for message in found.configure(1)]
    lie(replies[0], lambda state: {"x": state["x"] + 1e6})
    found.server.aggregate(1, [messages.read_train_reply(reply.content) for reply in replies])
    assert np.abs(found.variate()).max() < 20


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "local", "phase"),
    [
        (None, {}, "task"),
        (["task.extractor.picture"], {}, "task"),
        (["generator."], {"task": {"optimizer": "sgd"}}, "generator"),
        (["task.", "mapping."], {"task": {"optimizer": "sgd"}}, "mapping"),
        ([""], {"task": {"optimizer": "sgd"}, "mapping": {"optimizer": "sgd"}}, "generator"),
        (["recovery.other."], {"task": {"optimizer": "sgd"}, "mapping": {"optimizer": "sgd"}}, "generator"),
    ],
)
def test_another_optimiser_than_sgd_is_refused_where_it_trains_a_corrected_group(groups, local, phase):
    keys = {"name": "scaffold", **({} if groups is None else {"groups": groups})}
    words = rf"^local\.{phase}\.optimizer: expected sgd with scaffold.*found adam; set local\.{phase}\.optimizer: sgd"
    with pytest.raises(ConfigError, match=words) as raised:
        toy_config(strategy=keys, local=local)
    assert "\n" not in str(raised.value)


def test_adam_may_train_what_is_not_corrected():
    toy_config(strategy="scaffold", local={"task": {"optimizer": "sgd"}})
    toy_config(strategy={"name": "scaffold", "groups": ["mapping."]}, local={"mapping": {"optimizer": "sgd"}})


POISON = {
    "NaN": (lambda state: {"x": state["x"] * float("nan")}, "x contains NaN or infinity"),
    "shape": (lambda state: {"x": state["x"][:2]}, r"x: expected float64 \(3,\), found float64 \(2,\)"),
    "tensors": (lambda state: {"y": state["x"]}, r"expected the tensors \['x'\], found \['y'\]"),
}


def judged(found: World, change: Any) -> tuple[list[str | None], dict[str, str]]:
    """The faults of the replies of a round in which the first site's variate is changed: by form, and by size."""
    replies = {messages.addressee(m): found.answer(m) for m in found.configure(1)}
    lie(replies[NAMES[0]], change)
    federation, server = found.server.federation, found.server
    faults = []
    for name, reply in replies.items():
        plan = federation.plan(name)
        current = {**found.x, **server.strategy_groups(plan.upload)}
        faults.append(fault_of(reply, plan, current, federation.sites[name]))
    received = {name: messages.read_groups(reply.content) for name, reply in replies.items()}
    known = {**found.x, **server.strategy_groups(found.x)}
    return faults, judge(received, known, {}, Updates()).faults if not any(faults) else {}


@pytest.mark.parametrize("poison", POISON)
def test_a_variate_that_is_none_is_named(poison):
    change, words = POISON[poison]
    faults, _ = judged(world(), change)
    assert faults[1:] == [None] * 4
    assert faults[0] is not None
    assert faults[0].startswith(f"strategy.scaffold.{HEAD}: ")
    assert re.search(words, faults[0])


def test_a_variate_that_is_absurdly_large_is_named():
    faults, large = judged(world(), lambda state: {"x": state["x"] * 1e30})
    assert faults == [None] * 5 and list(large) == [NAMES[0]]
    assert large[NAMES[0]].startswith(f"strategy.scaffold.{HEAD}: an update of norm ")
    assert judged(world(), lambda state: state) == ([None] * 5, {})


def test_a_variate_of_a_group_outside_the_plan_is_named():
    found = world()
    [reply] = [found.answer(m) for m in found.configure(1) if messages.addressee(m) == NAMES[4]]
    reply.content[f"strategy.scaffold.{SOME}"] = messages.bundle(found.x[SOME])
    plan = found.server.federation.plan(NAMES[4])
    current = {**found.x, **found.server.strategy_groups(plan.upload)}
    fault = fault_of(reply, plan, current, found.server.federation.sites[NAMES[4]])
    unsent = "expected only groups that the strategy sent to the site"
    assert fault == f"uploaded strategy.scaffold.{SOME}, {unsent}"

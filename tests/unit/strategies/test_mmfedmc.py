"""``mmfedmc``: which modalities a site sends, which sites the server averages, and what both remember."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import strategies.mmfedmc
from fedrecon_core.config import parse
from fedrecon_core.errors import ConfigError
from fedrecon_core.local.local_round import TrainRequest, TrainResult, train_locally
from fedrecon_core.local.stage_runner import StageReport
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import EXTRACTORS, HEAD_GROUP, TransferPlan, extractor_group, group_bytes, read_group
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.target import target_of
from server.engines.base import Job
from server.engines.inprocess import InProcessGrid
from server.engines.pool import Here
from strategies.federation import Federation, share_of
from strategies.messages import Identity, SiteInfo, TrainReply
from strategies.mmfedmc import LocalFusion, MmFedMC, MmFedMCParams, Priority, TaskFusion, first_places, priorities
from tests.helpers.toy import (
    NAMES,
    MemoryStore,
    everything,
    toy_config,
    toy_recovery,
    toy_settings,
    toy_site,
    toy_spec,
)

pytestmark = pytest.mark.quick

ALONE = {
    key: {name: float(name == key) for name in ("shapley", "size", "recency")} for key in ("shapley", "size", "recency")
}
"""Weights of one reason alone."""


# --- the order of modalities ------------------------------------------------------------------------------------------


def test_priorities_are_the_weighted_sum_of_scaled_impact_scaled_smallness_and_recency():
    found = priorities(
        {"a": 1.0, "b": 3.0, "c": 2.0},
        {"a": 100.0, "b": 500.0, "c": 100.0},
        {"a": 0.5, "b": 0.25, "c": 1.0},
        Priority(shapley=1.0, size=10.0, recency=100.0),
    )
    assert found == pytest.approx({"a": 0 + 10 + 50, "b": 1 + 0 + 25, "c": 0.5 + 10 + 100})


def test_the_three_reasons_count_alike():
    found = priorities({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 0.2, "b": 0.2}, Priority())
    assert found["a"] == pytest.approx(found["b"]) == pytest.approx((1 + 0.2) / 3)


@pytest.mark.parametrize("values", [{"a": 2.0, "b": 2.0}, {"a": math.nan, "b": 1.0}, {"a": math.inf, "b": 0.0}])
def test_an_impact_that_says_nothing_prefers_nobody(values):
    assert priorities(values, {"a": 0, "b": 0}, {"a": 0, "b": 0}, Priority(**ALONE["shapley"])) == {"a": 0, "b": 0}


# --- a site -----------------------------------------------------------------------------------------------------------


def only(*modalities: str) -> np.ndarray:
    present = everything(48)
    present[:, [name not in modalities for name in NAMES]] = False
    return present


def local_round(store=None, *, recovery="mask", present=None, round_=1, trained=0, **keys):
    """A site's round: what it returned, its job, its modules."""
    made = toy_recovery(recovery)
    data = toy_site(present=present)
    plan = made.plan(data.modalities)
    modules = made.build(plan.download)
    job = TrainRequest(
        site="site-0000",
        recovery=made,
        data=data,
        plan=plan,
        received={name: read_group(module) for name, module in modules.items()},
        global_info=GlobalInfo(round_, dict.fromkeys(plan.download, trained)),
        store=MemoryStore() if store is None else store,
        hook=MmFedMC.local_half(MmFedMCParams(**keys)),
    )
    return train_locally(job, modules), job, modules


def sent(result: TrainResult) -> list[str]:
    """The modalities whose models came back."""
    assert set(result.groups) == set(result.counts) >= set(result.real)
    return [group.removeprefix(EXTRACTORS) for group in sorted(result.groups) if group.startswith(EXTRACTORS)]


def with_impact(monkeypatch, **impact) -> None:
    monkeypatch.setattr(
        strategies.mmfedmc, "shapley_values", lambda players, value: {m: torch.tensor(v) for m, v in impact.items()}
    )


def test_the_modality_that_moves_predictions_most_goes_back_whichever_way_it_moves_them(monkeypatch):
    for impact, first in (
        ({"picture": 0.1, "features": 0.3, "steps": 0.2}, "features"),
        ({"picture": 0.1, "features": 0.3, "steps": -0.4}, "steps"),
        ({"picture": [0.2, 0.2], "features": [0.3, 0.3], "steps": [0.5, -0.5]}, "steps"),
    ):
        with_impact(monkeypatch, **impact)
        assert sent(local_round(priority=ALONE["shapley"])[0]) == [first]


def test_gamma_modalities_go_back_and_the_head_always(monkeypatch):
    with_impact(monkeypatch, picture=0.1, features=0.3, steps=0.2)
    for gamma, expected in ((1, ["features"]), (2, ["features", "steps"]), (3, sorted(NAMES)), (9, sorted(NAMES))):
        result, *_ = local_round(gamma=gamma, priority=ALONE["shapley"])
        assert sent(result) == expected and HEAD_GROUP in result.groups


def test_the_smallest_model_goes_back_where_size_alone_counts():
    result, job, _ = local_round(priority=ALONE["size"])
    sizes = {name: group_bytes(job.received[extractor_group(name)]) for name in NAMES}
    assert sent(result) == [min(sizes, key=sizes.__getitem__)] and len(set(sizes.values())) == 3


def test_equal_priorities_go_by_name(monkeypatch):
    with_impact(monkeypatch, picture=0.5, features=0.5, steps=0.5)
    assert sent(local_round(priority=ALONE["shapley"], gamma=2)[0]) == ["features", "picture"]


def test_what_was_not_sent_for_long_goes_back_first_and_the_site_remembers_it():
    store, order = MemoryStore(), []
    for round_ in range(1, 7):
        order += sent(local_round(store, round_=round_, priority=ALONE["recency"])[0])
    assert order == ["features", "picture", "steps"] * 2
    assert [sent(local_round(round_=round_, priority=ALONE["recency"])[0]) for round_ in (1, 2)] == [["features"]] * 2


def test_recency_is_the_share_of_the_rounds_since_the_last_upload(monkeypatch):
    """(t - last) / (t + 1) with t counted from 0: sent in round 2 of 5 is (4 - 1) / (4 + 1)."""
    store, recorded = MemoryStore(), {}
    for round_, name in ((2, "steps"), (4, "picture")):
        with_impact(monkeypatch, **{name: 1.0})
        local_round(store, round_=round_, priority=ALONE["shapley"])
    monkeypatch.setattr(strategies.mmfedmc, "priorities", lambda i, s, recency, w: recorded.update(recency) or recency)
    local_round(store, round_=5)
    assert recorded == pytest.approx({"steps": 3 / 5, "picture": 1 / 5, "features": 1.0})


@pytest.mark.parametrize("recovery", ["mask", "zero", "fedrecon"])
def test_a_site_with_one_modality_sends_it_and_nothing_of_what_it_lacks(recovery):
    result, *_ = local_round(recovery=recovery, present=only("steps"), trained=100)
    assert sent(result) == ["steps"] and HEAD_GROUP in result.groups


def test_models_of_a_modality_that_is_only_filled_stay_at_the_site():
    result, _, _ = local_round(recovery="zero", present=only("steps", "picture"), gamma=2)
    assert sent(result) == ["picture", "steps"]


def test_what_belongs_to_the_recovery_goes_back_as_ever():
    result, job, _ = local_round(recovery="fedrecon", trained=100)
    others = {name for name in job.plan.upload if not name.startswith("task.")}
    assert len(sent(result)) == 1 and set(result.groups) == others | {HEAD_GROUP, extractor_group(*sent(result))}
    assert result.quality.keys() <= result.groups.keys() and result.quality


def test_a_site_sends_fewer_bytes():
    plain = sum(map(group_bytes, local_round(gamma=3)[0].groups.values()))
    result, job, _ = local_round()
    left_out = [job.received[extractor_group(name)] for name in NAMES if name not in sent(result)]
    assert sum(map(group_bytes, result.groups.values())) == plain - sum(map(group_bytes, left_out)) < plain


def test_every_modality_trains_whether_or_not_it_goes_back():
    result, job, modules = local_round()
    for name in map(extractor_group, NAMES):
        now = read_group(modules[name])
        assert any(not torch.equal(now[key], tensor) for key, tensor in job.received[name].items())
    plain, *_ = local_round(gamma=3)
    for group, state in result.groups.items():
        assert all(torch.equal(tensor, plain.groups[group][key]) for key, tensor in state.items())


# --- what is valued ---------------------------------------------------------------------------------------------------


def valued(monkeypatch, **options):
    """The subsets that a round's Shapley values were taken over, with their values; and the modules after it."""
    found = {}

    def spy(players, value):
        for size in range(len(players) + 1):
            found.update({frozenset(chosen): value(frozenset(chosen)) for chosen in combinations(players, size)})
        return dict.fromkeys(players, torch.tensor(0.0))

    monkeypatch.setattr(strategies.mmfedmc, "shapley_values", spy)
    _, job, modules = local_round(**options)
    return found, job, modules


def test_the_value_of_a_subset_is_the_probability_of_the_class_where_the_rest_is_absent(monkeypatch):
    found, job, modules = valued(monkeypatch, samples=48)
    model, everyone = TaskModel(modules, job.data.spec), torch.arange(48)
    assert len(found) == 8
    for subset, values in found.items():
        data = toy_site(present=only(*subset))
        with torch.no_grad():
            expected = model.logits(data.batch(everyone)).softmax(dim=1)[everyone, data.labels]
        torch.testing.assert_close(values.float(), expected, rtol=1e-5, atol=1e-6)


def test_values_are_taken_over_some_of_the_training_samples_others_in_every_round(monkeypatch):
    taken = {
        key: valued(monkeypatch, samples=samples, round_=round_)[0][frozenset(NAMES)]
        for key, samples, round_ in (("few", 7, 1), ("again", 7, 1), ("later", 7, 2), ("all", 1000, 1))
    }
    assert [len(values) for values in taken.values()] == [7, 7, 7, 48]
    assert torch.equal(taken["few"], taken["again"]) and not torch.equal(taken["few"], taken["later"])


def test_a_fill_counts_with_the_modality_that_it_fills(monkeypatch):
    half = everything(48)
    half[::2, NAMES.index("picture")] = False
    masked, *_ = valued(monkeypatch, recovery="mask", present=half, samples=48)
    filled, *_ = valued(monkeypatch, recovery="mean", present=half, samples=48)
    nothing = frozenset()
    assert torch.equal(masked[frozenset(["picture"])][::2], masked[nothing][::2])
    assert not torch.isclose(filled[frozenset(["picture"])], filled[nothing]).any()


def test_the_stream_of_the_values_leaves_all_others_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    local_round(recovery="uniform", present=only("steps", "picture"))
    assert torch.equal(before, torch.random.get_rng_state())


# --- decisions that are fused at the site -----------------------------------------------------------------------------


def test_local_fusion_adds_the_mean_loss_of_the_modalities_alone_on_real_rows():
    present = only("steps", "picture")
    present[:40, NAMES.index("picture")] = False
    data, modules = toy_site(present=present), toy_recovery("zero").build()
    model, batch, target = TaskModel(modules, data.spec), data.batch(torch.arange(48)), target_of(data.spec)
    alone = []
    for name, rows in (("picture", slice(40, 48)), ("steps", slice(0, 48))):
        seen = toy_site(present=only(name)).batch(torch.arange(48))
        alone.append(target.loss(model.logits(seen)[rows], batch.labels[rows]))
    torch.testing.assert_close(LocalFusion(10).loss(model, batch, target), torch.stack(alone).mean())
    nothing = toy_site(present=only()).batch(torch.arange(48))
    assert LocalFusion(10).loss(model, nothing, target) == TaskFusion().loss(model, batch, target) == 0.0


def test_a_site_trains_with_what_its_fusion_adds():
    losses = {fusion: local_round(fusion=fusion)[0].stages[-1].loss for fusion in ("task", "local")}
    assert losses["local"] > losses["task"] * 1.5


# --- the order of sites -----------------------------------------------------------------------------------------------


def test_the_lowest_or_highest_losses_come_first_and_what_is_no_number_last():
    losses = [0.5, math.nan, 0.2, 0.2, math.inf, 0.9]
    assert [first_places(losses, wanted, "lowest") for wanted in (1, 2, 3)] == [{2}, {2, 3}, {0, 2, 3}]
    assert [first_places(losses, wanted, "highest") for wanted in (1, 2)] == [{5}, {0, 5}]
    assert first_places(losses, 4, "highest") == first_places(losses, 4, "lowest") == {0, 2, 3, 5}
    assert first_places(losses, 5, "highest") == {0, 1, 2, 3, 5}
    assert first_places([math.nan, math.nan], 1, "lowest") == {0}


SITES = tuple(f"site-{number:04d}" for number in range(10))
TASK, OTHER = extractor_group("picture"), "generator.picture.encoder"


@pytest.fixture(autouse=True)
def _grid():
    """Create a grid: Flower creates messages only in a process that has set a run."""
    InProcessGrid(Job(Path("config.yaml"), Path("run"), False, sites=2), Here(None)).close()


def server(sites: int = 10, *, fraction: float = 1.0, **keys) -> MmFedMC:
    """Over sites that send and receive the groups above."""
    config = toy_config(
        strategy={"name": "mmfedmc", **keys}, sites={"count": sites, "fraction": fraction}, engine={"workers": 1}
    )
    names = SITES[:sites]
    infos = {name: SiteInfo(name, "", "", ("picture",), 10, {}) for name in names}
    plan = TransferPlan.of([TASK, HEAD_GROUP, OTHER], [TASK, HEAD_GROUP, OTHER])
    nodes = {name: number for number, name in enumerate(names, start=2)}
    return MmFedMC(Federation(config, toy_spec(), "run", infos, nodes, dict.fromkeys(names, plan)))


def reply(value: float, loss: float, groups=(TASK, HEAD_GROUP, OTHER), count: int = 10) -> TrainReply:
    """A site's reply."""
    states, counts = {group: {"w": torch.full((2,), value)} for group in groups}, dict.fromkeys(groups, count)
    stages = [StageReport("task", "task", loss, 1, 10, 0.0)]
    return TrainReply.of(TrainResult(states, counts, counts, {}, stages), 10, 0.0, 0.0, Identity("", ""))


def play(strategy: MmFedMC, replies) -> tuple[dict[str, float], dict]:
    """What a round makes of groups that are all -1, by group; and its losses."""
    start = {group: {"w": torch.full((2,), -1.0)} for group in (TASK, HEAD_GROUP, OTHER)}
    strategy.train_messages(1, start)
    made, losses = strategy.aggregate(1, replies)
    return {group: float(state["w"][0]) for group, state in made.items()}, losses


def test_the_share_with_the_lowest_loss_is_averaged_and_counted():
    strategy = server(delta=0.2)
    replies = [reply(float(place), loss=1 + (place * 7) % 10) for place in range(10)]  # lowest: 0, then 3
    found, _ = play(strategy, replies)
    assert found[TASK] == found[HEAD_GROUP] == pytest.approx(1.5)
    assert strategy.federation.trained == {TASK: 20, HEAD_GROUP: 20, OTHER: 100}


def test_with_rank_highest_those_of_the_highest_loss_are():
    found, _ = play(server(delta=0.2, rank="highest"), [reply(float(place), loss=place) for place in range(10)])
    assert found[TASK] == pytest.approx(8.5)


def test_groups_of_a_recovery_are_averaged_over_all_sites_unless_they_are_named():
    replies = [reply(float(place), loss=place) for place in range(10)]
    assert play(server(), replies)[0][OTHER] == pytest.approx(4.5)
    assert play(server(groups=[""]), replies)[0][OTHER] == pytest.approx(0.5)


def test_the_mean_is_unweighted():
    found, _ = play(server(2, delta=1.0), [reply(0.0, 1.0, count=1), reply(1.0, 1.0, count=9)])
    assert found[TASK] == pytest.approx(0.5)


def test_a_modality_that_no_site_in_front_sent_stays_as_it_is():
    strategy = server(2, delta=0.5)
    found, _ = play(strategy, [reply(3.0, 0.1, groups=(HEAD_GROUP,)), reply(5.0, 0.2)])
    assert found[TASK] == -1.0 and found[HEAD_GROUP] == 3.0 and TASK not in strategy.federation.trained


def test_the_share_is_of_the_sites_that_were_asked_in_this_round():
    replies = [reply(float(place), loss=place) for place in range(5)]
    assert play(server(10, delta=0.4), replies)[0][TASK] == pytest.approx(1.5)  # 4 of 10 asked, though 5 answered
    assert play(server(10, fraction=0.5, delta=0.4), replies)[0][TASK] == pytest.approx(0.5)  # 2 of 5 asked
    assert play(server(10, fraction=0.5, delta=0.01), replies)[0][TASK] == 0.0  # at least one
    assert play(server(10, delta=0.35), replies)[0][TASK] == pytest.approx(1.0)  # 3.5 is 3, as of ``sites.fraction``


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(0.1, 105, 10), (0.1, 86, 8), (0.25, 10, 2), (0.35, 10, 3), (0.29, 100, 29), (0.01, 5, 1), (1.0, 7, 7)],
)
def test_a_share_is_rounded_down_for_sampling_and_for_averaging_alike(share, count, expected):
    """0.29 * 100 is 28.999999999999996."""
    assert share_of(share, count) == expected
    nodes = {f"site-{number:04d}": number for number in range(count)}
    sites = {name: SiteInfo(name, "", "", ("picture",), 10, {}) for name in nodes}
    federation = Federation(toy_config(sites={"count": count}), toy_spec(), "run", sites, nodes, {})
    assert len(federation.sample(1, "train", share)) == expected


def test_equal_losses_go_by_the_order_of_the_sites_and_a_diverged_site_comes_last():
    assert play(server(4, delta=0.25), [reply(float(place), loss=1.0) for place in range(4)])[0][TASK] == 0.0
    diverged = [reply(0.0, math.nan), reply(1.0, 9.0), reply(2.0, math.inf)]
    assert play(server(3, delta=0.3), diverged)[0][TASK] == 1.0


def test_the_losses_of_a_round_are_those_of_all_its_sites():
    _, losses = play(server(delta=0.1), [reply(0.0, loss=place) for place in range(10)])
    assert losses["task"] == pytest.approx(4.5)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"gamma": 0}, "gamma"),
        ({"delta": 0.0}, "delta"),
        ({"rank": "middle"}, "rank"),
        ({"priority": {"shapley": 0, "size": 0, "recency": 0}}, "priority: expected a weight above 0"),
        ({"robust": {"rule": "median"}}, "robust: expected none with mmfedmc"),
        ({"trees": 5}, "trees: expected its default, 10, with fusion: task"),
        ({"fusion": "local"}, "strategy.fusion: expected task if the server evaluates"),
    ],
)
def test_keys_without_a_meaning_are_refused(keys, found):
    with pytest.raises(ConfigError, match=found):
        parse(toy_settings(strategy={"name": "mmfedmc", **keys}))


def test_fusion_at_the_sites_needs_one_class_per_sample():
    params = MmFedMCParams(fusion="local")
    params.check_data(toy_spec())
    several = toy_spec().model_copy(update={"target": "multilabel"})
    with pytest.raises(ConfigError, match=r"strategy\.fusion: expected task for data with several labels"):
        params.check_data(several)
    MmFedMCParams().check_data(several)


def test_more_modalities_than_can_be_enumerated_are_refused():
    first, *_ = toy_spec().modalities
    many = tuple(first.model_copy(update={"name": f"m{number}"}) for number in range(11))
    MmFedMCParams().check_data(toy_spec().model_copy(update={"modalities": many[:10]}))
    with pytest.raises(ConfigError, match=r"expected at most 10 modalities, .* found 11; use another"):
        MmFedMCParams().check_data(toy_spec().model_copy(update={"modalities": many}))


def test_training_samples_travel_with_a_question_for_scores_only_where_a_forest_needs_them():
    for keys, expected in (({}, False), ({"fusion": "local"}, True)):
        config = toy_config(strategy={"name": "mmfedmc", **keys}, evaluate={"where": "sites"})
        share, base = object(), server(2)
        federation = replace(base.federation, config=config, shares={SITES[0]: share}, held_out={"test": {}})
        strategy = MmFedMC(federation)
        assert (strategy.instruction(SITES[0], 1, "test").training is share) == expected
        assert strategy.instruction(SITES[0], 1, "train").training is None

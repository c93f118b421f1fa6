"""The contract of every recovery (a new file needs no edit here), and what single recoveries guarantee."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import after_scaling, combine, scaled, site_sums
from fedrecon_core.local.evaluate import predict
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.local.stage_runner import run_stage
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, discover
from fedrecon_core.state import (
    HEAD_GROUP,
    decoder_group,
    encoder_group,
    extractor_group,
    mapping_group,
    parameters_sha256,
    read_group,
)
from fedrecon_core.task.tokens import Fill
from tests.contract.test_strategies import bench_of
from tests.helpers.contract_support import (
    SITE,
    fresh,
    gaps,
    late_context,
    local_round,
    lonely,
    poisoned,
    same,
    seasoned,
    site_of,
    states,
    subsets,
    toys,
)
from tests.helpers.toy import CPU, NAMES, toy_config, toy_recovery


def gappy(name: str, modalities: int = 3) -> tuple[Recovery, SiteData]:
    """The recovery and a site where samples lack one thing or another."""
    dataset = toys(modalities)
    recovery = toy_recovery(name, dataset.spec)
    return recovery, site_of(dataset, gaps(48, modalities), recovery)


# --- keys -----------------------------------------------------------------------------------------------------------


def check_params_have_valid_defaults_and_carry_the_name(name: str) -> None:
    params = RECOVERIES.get(name).Params
    assert params().name == name
    with pytest.raises(ValidationError):
        params(**{"name": name, "no_such_key": 1})


def check_config_written_out_and_read_again_is_the_same(name: str) -> None:
    import yaml

    config = toy_config({"name": name})
    again: RunConfig = parse(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert type(again.recovery) is RECOVERIES.get(name).Params


# --- models ---------------------------------------------------------------------------------------------------------


def check_groups_start_the_same_whenever_and_with_whatever_they_are_built(name: str) -> None:
    recovery = toy_recovery(name)
    torch.manual_seed(1)
    everything = states(recovery.build())
    torch.manual_seed(2)
    assert set(everything) == set(recovery.builders())
    assert same(states(toy_recovery(name).build()), everything)
    for group in sorted(everything):
        assert same(states(recovery.build([group])), {group: everything[group]})


def check_building_leaves_the_global_generators_alone(name: str) -> None:
    recovery = toy_recovery(name)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    recovery.build()
    assert torch.equal(torch.rand(4), expected)


def check_a_group_that_another_recovery_has_starts_the_same_there(name: str) -> None:
    mine = states(toy_recovery(name).build())
    for other in RECOVERIES.names():
        theirs = states(toy_recovery(other).build())
        shared = mine.keys() & theirs.keys()
        assert HEAD_GROUP in shared
        assert same({g: mine[g] for g in shared}, {g: theirs[g] for g in shared}), other


def check_another_seed_gives_other_groups(name: str) -> None:
    seeds = [parameters_sha256(states(toy_recovery(name, seed=seed).build())) for seed in (0, 1)]
    assert seeds[0] != seeds[1]


# --- transfer plan --------------------------------------------------------------------------------------------------


def check_plan_of_every_selection_of_modalities_is_sound(name: str) -> None:
    for modalities in (1, 2, 3, 4):
        spec = toys(modalities).spec
        recovery = toy_recovery(name, spec)
        known = set(recovery.builders())
        for held in subsets(spec.names):
            plan = recovery.plan(held)
            assert set(plan.upload) <= set(plan.download) <= known
            assert HEAD_GROUP in plan.upload
            assert {extractor_group(m) for m in held} <= set(plan.upload)
            assert list(plan.download) == sorted(set(plan.download)) and list(plan.upload) == sorted(set(plan.upload))
            assert recovery.plan(held) == plan


def check_plan_of_a_site_with_everything_covers_all_groups(name: str) -> None:
    recovery = toy_recovery(name)
    plan = recovery.plan(recovery.spec.names)
    assert set(plan.download) == set(plan.upload) == set(recovery.builders())


# --- the local round ------------------------------------------------------------------------------------------------


def check_local_round_keeps_to_its_plan(name: str) -> None:
    for modalities in (1, 2, 4):
        recovery, data = gappy(name, modalities)
        job, result, modules = local_round(recovery, data)
        assert set(result.groups) == set(result.counts) == set(result.real) <= set(job.plan.upload)
        assert HEAD_GROUP in result.groups
        for group in result.groups:
            assert 0 <= result.real[group] <= result.counts[group] and result.counts[group] > 0, group
            assert not same({group: result.groups[group]}, {group: job.received[group]}), f"{group} did not learn"
        idle = set(job.plan.download) - set(result.groups)
        assert same({g: read_group(modules[g]) for g in idle}, {g: job.received[g] for g in idle})


def check_local_round_stays_finite(name: str) -> None:
    recovery, data = gappy(name)
    _, result, _ = local_round(recovery, data)
    assert result.stages and all(np.isfinite(stage.loss) for stage in result.stages)
    assert all(torch.isfinite(t).all() for state in result.groups.values() for t in state.values())
    assert all(group in result.groups and 0 <= score <= 1 for group, score in result.quality.items())


def check_real_counts_are_those_of_the_presence_mask(name: str) -> None:
    recovery, data = gappy(name)
    _, result, _ = local_round(recovery, data)
    for modality, present in zip(data.spec.names, data.present.sum(dim=0).tolist(), strict=True):
        if extractor_group(modality) in result.real:
            assert result.real[extractor_group(modality)] == present
    assert result.counts[HEAD_GROUP] == len(data)


def check_stages_change_only_what_they_train(name: str) -> None:
    recovery, data = gappy(name)
    context = late_context(recovery, data)
    frozen = states(context.received)
    for stage in recovery.stages(context):
        assert set(stage.trains) | set(stage.freezes) == set(context.groups)
        assert not set(stage.trains) & set(stage.freezes)
        before = states({g: context.groups[g] for g in stage.freezes})
        phase = getattr(recovery.config.local, stage.phase)
        run_stage(stage, context, phase, LocalHook(), (0, context.global_info.round, SITE))
        assert same(states({g: context.groups[g] for g in stage.freezes}), before), stage.name
    assert same(states(context.received), frozen), "a frozen copy moved"


def check_two_local_rounds_give_the_same_bytes(name: str) -> None:
    hashes = []
    for noise in (1, 2):
        recovery, data = gappy(name)
        torch.manual_seed(noise)
        hashes.append(parameters_sha256(local_round(recovery, data)[1].groups))
    assert hashes[0] == hashes[1]


def check_first_round_without_any_history_works(name: str) -> None:
    recovery, data = gappy(name)
    for global_info in (fresh(data), GlobalInfo(1)):
        _, result, _ = local_round(recovery, data, global_info)
        assert HEAD_GROUP in result.groups and np.isfinite(result.stages[-1].loss)


def check_sites_without_a_pair_or_with_empty_samples_train(name: str) -> None:
    for modalities in (1, 2, 4):
        dataset = toys(modalities)
        recovery = toy_recovery(name, dataset.spec)
        one_kind = np.zeros((48, modalities), dtype=bool)
        one_kind[:, -1] = True
        for present in (lonely(48, modalities), gaps(48, modalities, 0.7, empty=True), one_kind):
            job, result, _ = local_round(recovery, site_of(dataset, present, recovery))
            assert set(result.groups) <= set(job.plan.upload) and HEAD_GROUP in result.groups
            assert all(np.isfinite(stage.loss) for stage in result.stages)


def check_a_single_sample_trains(name: str) -> None:
    dataset = toys()
    recovery = toy_recovery(name)
    first = np.array([[True, False, False]])
    data = open_site(dataset, dataset.members(0)[:1], first, device=CPU, sealed=recovery.reads_absent)
    _, result, _ = local_round(recovery, data)
    assert result.counts[HEAD_GROUP] == 1


# --- absent values --------------------------------------------------------------------------------------------------


def check_absent_values_are_never_read(name: str) -> None:
    if not RECOVERIES.get(name).reads_absent:  # type: ignore[attr-defined]
        assert _outcome(name, poison=True) == _outcome(name, poison=False)


def check_reads_absent_is_declared_truly(name: str) -> None:
    if RECOVERIES.get(name).reads_absent:  # type: ignore[attr-defined]
        assert _outcome(name, poison=True) != _outcome(name, poison=False)


def _outcome(name: str, poison: bool) -> list[str]:
    """Hashes of local rounds' groups and of predictions, from raw arrays on that hold NaN where absent, or not."""
    dataset, hashes = toys(scale="standard"), []
    recovery = toy_recovery(name, dataset.spec)
    for split, count in enumerate((48, 24, 24)):
        present = gaps(count, 3)
        raw = site_of(poisoned(dataset, present, split) if poison else dataset, present, recovery, split)
        statistics = combine([site_sums(raw)])
        seen = after_scaling(dataset.spec.modalities, statistics)
        data, global_info = scaled(raw, statistics), replace(seasoned(recovery, raw), statistics=seen)
        _, result, modules = local_round(recovery, data, global_info)
        logits = predict(recovery, modules, global_info, data, "test").logits
        hashes.append(parameters_sha256({**result.groups, "logits": {"": logits}}))
    return hashes


# --- filling --------------------------------------------------------------------------------------------------------


def check_fills_stand_only_where_something_is_absent(name: str) -> None:
    for modalities in (2, 3, 4):
        recovery, data = gappy(name, modalities)
        batch, groups = data.batch(torch.arange(len(data))), recovery.build()
        for global_info in (fresh(data), seasoned(recovery, data)):
            with torch.no_grad():
                fills = recovery.recover(batch, groups, global_info)
            assert len({(fill.modality, fill.slot) for fill in fills}) == len(fills)
            for fill in fills:
                absent = ~batch.present[:, data.spec.names.index(fill.modality)]
                assert absent[fill.rows.index].all(), f"{fill.modality}: a fill for a present sample"
                _check_fill(fill, data)


def _check_fill(fill: Fill, data: SiteData) -> None:
    rows = len(fill.rows.index)
    shape = data.spec[fill.modality].shape
    assert len(fill.rows.index.unique()) == rows
    assert fill.rows.values.shape[0] == fill.weight.shape[0] == rows
    if fill.rows.lengths is None:
        assert tuple(fill.rows.values.shape[1:]) == shape
    else:
        assert fill.rows.values.shape[2:] == shape[1:] and int(fill.rows.lengths.max()) <= shape[0]
    assert torch.isfinite(fill.rows.values).all()
    assert torch.isfinite(fill.weight).all() and (fill.weight > 0).all()


def check_recover_is_empty_where_nothing_is_absent(name: str) -> None:
    dataset = toys()
    recovery = toy_recovery(name)
    data = site_of(dataset, np.ones((48, 3), dtype=bool), recovery)
    fills = recovery.recover(data.batch(torch.arange(48)), recovery.build(), seasoned(recovery, data))
    assert not any(len(fill.rows.index) for fill in fills)


# --- prediction -----------------------------------------------------------------------------------------------------


def check_predicts_with_any_gaps_before_and_after_training(name: str) -> None:
    for modalities in (1, 2, 4):
        dataset = toys(modalities)
        recovery = toy_recovery(name, dataset.spec)
        groups = recovery.build()
        nothing = np.zeros((24, modalities), dtype=bool)
        for present in (gaps(24, modalities), lonely(24, modalities), gaps(24, modalities, 0.7, empty=True), nothing):
            data = site_of(dataset, present, recovery, split=2)
            for global_info in (GlobalInfo(0), fresh(data), seasoned(recovery, data)):
                logits = predict(recovery, groups, global_info, data, "test").logits
                assert logits.shape == (24, 3) and torch.isfinite(logits).all()


def check_predicts_twice_the_same_and_changes_nothing(name: str) -> None:
    recovery, data = gappy(name)
    groups = recovery.build()
    before = states(groups)
    first = predict(recovery, groups, seasoned(recovery, data), data, "test").logits
    torch.manual_seed(5)
    assert torch.equal(predict(recovery, groups, seasoned(recovery, data), data, "test").logits, first)
    assert same(states(groups), before)


def check_batches_that_are_read_at_the_same_time_say_the_same(name: str) -> None:
    dataset = toys()
    recovery = toy_recovery(name, evaluate={"batch": 5})
    data = site_of(dataset, gaps(48, 3, 0.4, empty=True), recovery)
    groups, global_info = recovery.build(), seasoned(recovery, data)
    alone = predict(recovery, groups, global_info, data, "test").logits
    for threads in (2, 3, 64):
        assert torch.equal(predict(recovery, groups, global_info, data, "test", threads=threads).logits, alone)


def check_fills_draw_nothing_from_the_generators_that_all_threads_share(name: str) -> None:
    recovery, data = gappy(name)
    batch, groups, before = data.batch(torch.arange(len(data))), recovery.build(), torch.get_rng_state()
    numbers = np.random.get_state()[1].tolist()
    with torch.inference_mode():
        recovery.recover(batch, groups, seasoned(recovery, data))
    assert torch.equal(torch.get_rng_state(), before) and np.random.get_state()[1].tolist() == numbers


def check_the_groups_of_the_plan_are_enough_to_predict(name: str) -> None:
    dataset = toys()
    recovery = toy_recovery(name)
    everything = recovery.build()
    for held in list(subsets(dataset.spec.names))[1:]:
        present = gaps(24, 3, 0.3, empty=True) & np.array([m in held for m in dataset.spec.names])
        data = site_of(dataset, present, recovery, split=2)
        global_info = seasoned(recovery, data)
        sent = {group: everything[group] for group in recovery.plan(data.modalities).download}
        at_the_site = predict(recovery, sent, global_info, data, "test").logits
        assert torch.equal(at_the_site, predict(recovery, everything, global_info, data, "test").logits), held


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]


# --- every registered recovery against its contract; a new file in ``fedrecon_core/recovery`` is tested w ------------


discover((*CORE_PACKAGES, "strategies"))


@pytest.mark.quick
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", RECOVERIES.names())
def test_recovery(name, check):
    check(name)


# --- promises of single recoveries, beside the contract of all -------------------------------------------------------


W0 = {"name": "fedrecon", "weight": 0}


@pytest.mark.parametrize("held", list(subsets(NAMES)), ids=lambda held: "-".join(held) or "nothing")
def test_mask_sends_head_and_extractors_of_what_the_site_has(held):
    plan = toy_recovery("mask").plan(held)
    assert plan.download == plan.upload == tuple(sorted([HEAD_GROUP, *map(extractor_group, held)]))


@pytest.mark.parametrize("name", [name for name, cls in RECOVERIES.items() if cls.fills_everything])
def test_what_fills_everything_trains_everything_everywhere(name):
    recovery = toy_recovery(name)
    assert {recovery.plan(held) for held in subsets(NAMES)} == {recovery.plan(NAMES)}


@pytest.mark.parametrize("held", list(subsets(NAMES)), ids=lambda held: "-".join(held) or "nothing")
def test_fedrecon_uploads_no_generator_of_what_the_site_lacks(held):
    plan = toy_recovery("fedrecon").plan(held)
    for lacking in set(NAMES) - set(held):
        assert encoder_group(lacking) not in plan.download
        assert decoder_group(lacking) in plan.download and decoder_group(lacking) not in plan.upload
        assert not [group for group in plan.upload if group.startswith("mapping.") and lacking in group]


def test_fedrecon_counts_pairs_and_present_rows():
    recovery, dataset = toy_recovery("fedrecon"), toys()
    present = gaps(48, 3)
    _, result, _ = local_round(recovery, site_of(dataset, present, recovery))
    for i, source in enumerate(NAMES):
        assert result.counts[encoder_group(source)] == result.counts[decoder_group(source)] == present[:, i].sum()
        for j, target in enumerate(NAMES):
            if i != j:
                pairs = int((present[:, i] & present[:, j]).sum())
                held = int(recovery.params.mapping.holdout * pairs)
                assert result.counts[mapping_group(source, target)] == pairs - held
    filled = [extractor_group(name) for name in NAMES if not present.all(axis=0)[NAMES.index(name)]]
    assert all(result.counts[group] > result.real[group] for group in filled)


def test_fedrecon_trains_no_mapping_without_a_pair():
    recovery, dataset = toy_recovery("fedrecon"), toys()
    _, result, _ = local_round(recovery, site_of(dataset, lonely(48, 3), recovery))
    assert not [group for group in result.groups if group.startswith("mapping.")]
    assert not result.quality


def test_weight_zero_has_the_groups_and_plans_of_mask():
    zero, mask = toy_recovery(W0), toy_recovery("mask")
    assert set(zero.builders()) == set(mask.builders())
    assert all(zero.plan(held) == mask.plan(held) for held in subsets(NAMES))


@pytest.mark.parametrize("strategy", ["fedavg", "fedopt"])
def test_weight_zero_is_mask_to_the_byte_round_after_round(strategy):
    zero, mask = bench_of(strategy, W0), bench_of(strategy, "mask")
    groups = mask.initial()
    assert parameters_sha256(zero.initial()) == parameters_sha256(groups)
    for round_ in (1, 2, 3):
        ours, theirs = zero.round(round_, groups), mask.round(round_, groups)
        assert parameters_sha256(ours) == parameters_sha256(theirs) != parameters_sha256(groups)
        groups = theirs


def test_only_the_oracle_reads_what_is_absent():
    assert [name for name, cls in RECOVERIES.items() if cls.reads_absent] == ["oracle"]


def test_oracle_fills_with_the_truth():
    recovery, dataset, present = toy_recovery("oracle"), toys(), gaps(48, 3)
    data = site_of(dataset, present, recovery)
    fills = recovery.recover(data.batch(torch.arange(48)), {}, seasoned(recovery, data))
    assert {fill.modality for fill in fills} == set(NAMES)
    for fill in fills:
        hidden = np.flatnonzero(~present[:, NAMES.index(fill.modality)])
        assert fill.rows.index.tolist() == hidden.tolist()
        if fill.modality != "steps":
            assert np.array_equal(fill.rows.values.numpy(), dataset.arrays[fill.modality][hidden])


@pytest.mark.parametrize("name", ["mean", "uniform", "zero"])
def test_plain_fills_have_the_moments_they_name(name):
    recovery, dataset = toy_recovery(name), toys()
    data = site_of(dataset, gaps(48, 3), recovery)
    global_info = seasoned(recovery, data)
    mean, std = global_info.statistics["features"].mean.float(), global_info.statistics["features"].std.float()
    drawn = recovery.values(dataset.spec["features"], torch.arange(20_000), global_info)
    nothing = torch.zeros(5)
    expected = {"mean": (mean, nothing), "uniform": (mean, std), "zero": (nothing, nothing)}[name]
    assert torch.allclose(drawn.mean(dim=0), expected[0], atol=0.05)
    assert torch.allclose(drawn.std(dim=0), expected[1], atol=0.05)

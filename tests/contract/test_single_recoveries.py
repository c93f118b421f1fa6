"""Promises of single recoveries, beside the contract of all."""

import numpy as np
import pytest
import torch

from fedrecon_core.registry import RECOVERIES
from fedrecon_core.state import (
    HEAD_GROUP,
    decoder_group,
    encoder_group,
    extractor_group,
    mapping_group,
    parameters_sha256,
)
from tests.contract.strategy_checks import bench_of
from tests.helpers.contract_support import gaps, local_round, lonely, seasoned, site_of, subsets, toys
from tests.helpers.toy import NAMES, toy_recovery

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

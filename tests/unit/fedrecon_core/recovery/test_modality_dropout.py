"""Modality dropout: what is hidden in training, and that nothing else changes."""

import pytest
import torch

from fedrecon_core import seeding
from fedrecon_core.local.evaluate import predict
from fedrecon_core.local.local_round import TrainRequest, train_locally
from fedrecon_core.recovery.base import keep_at_random
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import read_group
from tests.helpers.toy import NAMES, MemoryStore, everything, toy_recovery, toy_site

pytestmark = pytest.mark.quick


def dropping(rate: float):
    return toy_recovery({"name": "mask", "modality_dropout": rate})


def trained(recovery, present=None) -> dict:
    data = toy_site(present=present)
    plan = recovery.plan(data.modalities)
    modules = recovery.build(plan.download)
    received = {name: read_group(module) for name, module in modules.items()}
    global_info = GlobalInfo(1, dict.fromkeys(plan.download, 1))
    return train_locally(TrainRequest("site-0000", recovery, data, plan, received, global_info, MemoryStore()), modules)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_each_modality_is_hidden_with_the_rate_and_one_always_stays(rate):
    count, modalities = 40_000, 3
    with seeding.scope(0, "test"):
        kept = keep_at_random(torch.ones(count, modalities, dtype=torch.bool), rate)
    assert kept.any(dim=1).all()
    # one that is hidden comes back where all are, which is one time in three each
    hidden = rate - rate**modalities / modalities
    assert torch.allclose((~kept).double().mean(dim=0), torch.full((modalities,), hidden).double(), atol=0.015)
    together = (kept[:, 0] & kept[:, 1]).double().mean()
    assert abs(together - (1 - rate) ** 2) < 0.015  # what stays by chance stays independently


def test_what_is_absent_never_comes_back_and_a_sample_of_one_modality_loses_none():
    present = torch.tensor([[True, False, False], [False, False, False], [True, True, False], [False, False, True]])
    with seeding.scope(1, "test"):
        drawn = torch.stack([keep_at_random(present, 0.5) for _ in range(300)])
    assert not (drawn & ~present).any()
    assert (drawn[:, [0, 1, 3]] == present[[0, 1, 3]]).all()
    assert {tuple(row) for row in drawn[:, 2].tolist()} == {
        (True, True, False), (True, False, False), (False, True, False),
    }  # fmt: skip


def test_a_batch_holds_the_rows_of_what_stays_in_their_places():
    present = everything(48)
    present[::3, 1] = False
    whole = toy_site(present=present).batch(torch.arange(48))
    with seeding.scope(2, "test"):
        batch = dropping(0.5).training_batch(whole)
    assert batch.present.sum() < whole.present.sum()
    for column, name in enumerate(NAMES):
        rows, before = batch.inputs[name], whole.inputs[name]
        assert torch.equal(rows.index, torch.nonzero(batch.present[:, column]).flatten())
        place = {int(index): row for row, index in enumerate(before.index)}
        chosen = torch.tensor([place[int(index)] for index in rows.index])
        assert torch.equal(rows.values, before.values[chosen])
        assert (rows.lengths is None) == (before.lengths is None)
        if rows.lengths is not None:
            assert torch.equal(rows.lengths, before.lengths[chosen])
    assert torch.equal(batch.labels, whole.labels)


def test_without_dropout_the_batch_is_the_same_object_and_no_number_is_drawn():
    batch = toy_site(present=everything(48)).batch(torch.arange(48))
    state = torch.random.get_rng_state()
    assert toy_recovery("mask").training_batch(batch) is batch
    assert torch.equal(torch.random.get_rng_state(), state)


def same(one, other) -> bool:
    pairs = ((tensor, other.groups[group][name]) for group in one.groups for name, tensor in one.groups[group].items())
    return all(torch.equal(first, second) for first, second in pairs)


def test_a_round_with_dropout_repeats_itself_and_differs_from_one_without():
    assert same(trained(dropping(0.5)), trained(dropping(0.5)))
    assert not same(trained(dropping(0.5)), trained(toy_recovery("mask")))
    lone = everything(48)
    lone[:, 1:] = False
    assert same(trained(dropping(0.5), lone), trained(toy_recovery("mask"), lone))  # one modality: nothing to hide


def test_all_that_a_sample_shows_is_read_when_the_model_is_scored():
    data, plain, dropout = toy_site(present=everything(48)), toy_recovery("mask"), dropping(0.9)
    groups, global_info = plain.build(), GlobalInfo(1, dict.fromkeys(plain.builders(), 1))
    asked = [predict(recovery, groups, global_info, data, "here").logits for recovery in (plain, dropout)]
    assert torch.equal(*asked)


def test_what_is_hidden_is_reconstructed_like_what_is_absent():
    keys = {"name": "fedrecon", "modality_dropout": 0.9}
    made: list[int] = []

    class Watched(type(toy_recovery(keys))):
        def recover_locally(self, batch, context):
            fills = super().recover_locally(batch, context)
            made.extend(len(fill.rows.index) for fill in fills)
            assert all(not batch.present[fill.rows.index, NAMES.index(fill.modality)].any() for fill in fills)
            return fills

    plain = toy_recovery(keys)
    trained(Watched(plain.config, plain.spec), everything(48))
    assert sum(made) > 48  # a complete site: without dropout there would be nothing to reconstruct


def test_without_reconstructions_fedrecon_with_dropout_is_mask_with_dropout():
    weightless = toy_recovery({"name": "fedrecon", "weight": 0, "modality_dropout": 0.5})
    assert same(trained(weightless), trained(dropping(0.5)))

"""The local round: batches, and a task model used one modality at a time (Shapley values, decision fusion)."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedrecon_core.local.by_modality import MOST_PLAYERS, Forest, ModalityViews, class_probabilities, shapley_values
from fedrecon_core.local.evaluate import EvaluationContext, predict
from fedrecon_core.local.hook import HookState
from fedrecon_core.local.stage_runner import batches
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext
from fedrecon_core.seeding import torch_stream
from fedrecon_core.task.model import TaskModel
from strategies.mmfedmc import MmFedMC, MmFedMCParams
from tests.helpers.toy import CLASSES, NAMES, everything, tiny_dataset, toy_recovery, toy_site

EVERYONE = torch.arange(48)


def gappy(*lacking: str) -> np.ndarray:
    present = everything(48)
    present[::2, [name in lacking for name in NAMES]] = False
    return present


def only(*modalities: str, present=None) -> np.ndarray:
    present = everything(48) if present is None else present.copy()
    present[:, [name not in modalities for name in NAMES]] = False
    return present


def model_of(fusion: str = "attention"):
    task = {"width": 8, "hidden": 8, "dropout": 0.0, "fusion": fusion}
    recovery = toy_recovery("mask", task=task)
    return TaskModel(recovery.build(), recovery.spec), recovery


@pytest.mark.parametrize("fusion", ["attention", "concat"])
@pytest.mark.parametrize("chosen", [(), ("steps",), ("picture", "steps"), NAMES])
def test_views_are_the_model_on_samples_that_have_nothing_else(fusion, chosen):
    model, _ = model_of(fusion)
    present = gappy("picture", "features")
    with torch.no_grad():
        views = ModalityViews.of(model, toy_site(present=present).batch(EVERYONE))
        alone = toy_site(present=only(*chosen, present=present)).batch(EVERYONE)
        torch.testing.assert_close(views.logits(chosen), model.logits(alone))
    for column, name in enumerate(NAMES):
        assert torch.equal(views.has_token(name), torch.from_numpy(present[:, column]))


def test_probabilities_of_single_modalities_and_uniform_ones_of_absent_modalities():
    model, _ = model_of()
    present = gappy("picture")
    with torch.no_grad():
        message = class_probabilities(model, toy_site(present=present).batch(EVERYONE), ())
        assert message.shape == (48, 3, 3)
        for column, name in enumerate(NAMES):
            alone = model.logits(toy_site(present=only(name)).batch(EVERYONE)).softmax(dim=1)
            has = torch.from_numpy(present[:, column])
            torch.testing.assert_close(message[has, column], alone[has])
            torch.testing.assert_close(message[~has, column], torch.full((int((~has).sum()), 3), 1 / 3))


def test_a_fill_speaks_for_the_modality_that_it_fills():
    recovery = toy_recovery("zero")
    groups = recovery.build()
    model = TaskModel(groups, recovery.spec)
    batch = toy_site(present=gappy("picture")).batch(EVERYONE)
    with torch.no_grad():
        message = class_probabilities(model, batch, recovery.recover(batch, groups, GlobalInfo(1)))
    filled = message[::2, NAMES.index("picture")]
    assert not torch.isclose(filled, torch.tensor(1 / 3)).all() and torch.allclose(filled, filled[0])


# --- the forest -------------------------------------------------------------------------------------------------------


def informative(labels: torch.Tensor, confidence: float = 0.8) -> torch.Tensor:
    """Probabilities of one modality that predicts the class, and of another that is uninformative."""
    hot = F.one_hot(labels, 3).float()
    return torch.stack([hot * confidence + (1 - confidence) / 3, torch.full_like(hot, 1 / 3)], dim=1)


def test_the_forest_learns_which_modality_is_informative():
    known, labels = informative(torch.arange(30) % 3), torch.tensor([1, 2, 0]).repeat(10)  # labels in another order
    found = Forest(10, 0).logits(known, labels, informative(torch.tensor([0, 1, 2, 2])))
    assert found.argmax(dim=1).tolist() == [1, 2, 0, 0] and found.dtype == torch.float32


def test_its_answers_are_log_probabilities_and_no_class_is_impossible():
    labels = torch.tensor([0, 2]).repeat(6)  # class 1 was never seen
    found = Forest(10, 0).logits(informative(labels), labels, informative(torch.tensor([0, 1, 2])))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(3))
    assert found[:, 1].exp().tolist() == pytest.approx([1 / 33] * 3)  # one tree of eleven, which does not know
    assert found[0, 0].exp() == pytest.approx(31 / 33)


def test_a_seed_gives_a_forest_and_one_class_or_nothing_asked_is_no_fault():
    draw = torch.Generator().manual_seed(0)
    known, labels = torch.rand(40, 2, 3, generator=draw), torch.randint(0, 3, (40,), generator=draw)
    asked = torch.rand(50, 2, 3, generator=draw)
    first, again, other = (Forest(3, seed).logits(known, labels, asked) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    alone = Forest(3, 0).logits(known, torch.full((40,), 2), asked)
    assert (alone.argmax(dim=1) == 2).all()
    assert Forest(3, 0).logits(known, labels, asked[:0]).shape == (0, 3)


# --- at the site ------------------------------------------------------------------------------------------------------

LOCAL = MmFedMCParams(fusion="local")


def scoring(recovery, training=None, present=None) -> EvaluationContext:
    groups = recovery.build()
    held_out = toy_site(tiny_dataset(seed=1), present)
    global_info = GlobalInfo(9, dict.fromkeys(groups, 10))
    return EvaluationContext(
        recovery, groups, global_info, held_out, "test/a", lambda: toy_site() if training is None else training
    )


def test_the_site_predicts_with_a_forest_on_its_training_samples():
    given = scoring(toy_recovery("mask"))
    found = MmFedMC.local_half(LOCAL).predictions(given)
    again = MmFedMC.local_half(LOCAL).predictions(given)
    plain = MmFedMC.local_half(MmFedMCParams()).predictions(given)
    assert torch.equal(found.logits, again.logits) and found.logits.shape == (48, 3)
    expected = predict(given.recovery, given.groups, given.global_info, given.data, "test/a")
    assert torch.equal(plain.logits, expected.logits)
    accuracy = [float((p.logits.argmax(1) == given.data.labels).double().mean()) for p in (found, plain)]
    assert accuracy[0] > 0.6 > accuracy[1], "a forest over an untrained model learns, the model alone guesses"


def test_the_forest_of_a_modality_that_nobody_trained_sees_nothing_of_it():
    given = scoring(toy_recovery("mask"))
    given.global_info.trained.update({f"task.extractor.{name}": 0 for name in NAMES})
    found = MmFedMC.local_half(LOCAL).predictions(given).logits
    assert torch.allclose(found, found[0])


def test_a_site_without_training_samples_falls_back_on_the_task_model():
    nothing = toy_site(tiny_dataset(train=0))
    given = scoring(toy_recovery("mask"), training=nothing)
    plain = predict(given.recovery, given.groups, given.global_info, given.data, "test/a")
    assert len(nothing) == 0 and torch.equal(MmFedMC.local_half(LOCAL).predictions(given).logits, plain.logits)


@pytest.mark.parametrize("recovery", ["mask", "zero", "mean", "uniform", "fedrecon"])
def test_it_predicts_whatever_fills_what_is_absent(recovery):
    made = toy_recovery(recovery)
    training = toy_site(present=gappy("picture"))
    found = MmFedMC.local_half(LOCAL).predictions(scoring(made, training, only("steps")))
    assert found.logits.shape == (48, len(CLASSES)) and torch.isfinite(found.logits).all()


def test_each_modality_learns_on_its_own():
    recovery = toy_recovery("mask")
    groups = recovery.build()
    data = toy_site(present=gappy("picture"))
    hook, model = MmFedMC.local_half(LOCAL), TaskModel(groups, recovery.spec)
    context = LocalContext(groups, data, GlobalInfo(1), lambda purpose: torch.Generator())
    hook.begin(context, HookState())
    expected = []
    for column, name in enumerate(NAMES):
        has = torch.nonzero(data.present[:, column]).flatten()
        alone = toy_site(present=only(name)).batch(has)
        expected.append(F.cross_entropy(model.logits(alone), alone.labels))
    torch.testing.assert_close(hook.loss(model, data.batch(EVERYONE)), torch.stack(expected).mean())
    plain = MmFedMC.local_half(MmFedMCParams())
    plain.begin(context, HookState())
    assert plain.loss(model, data.batch(EVERYONE)) == 0.0
    nothing = toy_site(present=only()).batch(EVERYONE)
    assert hook.loss(model, nothing) == 0.0


# --- shapley values against the mean over all orders of joining, and against their axioms ----------------------------


SHAPLEY_NAMES = tuple("abcde")


def random_game(players, games=4, seed=0):
    """A value for every subset, drawn when it is first asked for; ``asked`` lists what was."""
    draw, known, asked = torch.Generator().manual_seed(seed), {}, []

    def value(subset):
        asked.append(subset)
        if subset not in known:
            known[subset] = torch.randn(games, generator=draw, dtype=torch.float64)
        return known[subset]

    return value, asked


def over_all_orders(players, value):
    """The definition: what a player adds when it joins, averaged over all orders."""
    total = dict.fromkeys(players, 0.0)
    for order in permutations(players):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            total[player] = total[player] + value(before | {player}) - value(before)
    return {player: added / math.factorial(len(players)) for player, added in total.items()}


@pytest.mark.quick
@pytest.mark.parametrize("players", [SHAPLEY_NAMES[:1], SHAPLEY_NAMES[:2], SHAPLEY_NAMES[:3], SHAPLEY_NAMES])
def test_they_are_the_mean_over_all_orders_of_joining(players):
    value, _ = random_game(players, seed=len(players))
    found, expected = shapley_values(players, value), over_all_orders(players, value)
    assert found.keys() == expected.keys()
    for player in players:
        torch.testing.assert_close(found[player], expected[player], rtol=0, atol=1e-12)


@pytest.mark.quick
def test_every_subset_is_valued_once():
    value, asked = random_game(SHAPLEY_NAMES)
    shapley_values(SHAPLEY_NAMES, value)
    assert len(asked) == len(set(asked)) == 2 ** len(SHAPLEY_NAMES)


@pytest.mark.quick
def test_together_they_are_what_all_players_add_to_none():
    value, _ = random_game(SHAPLEY_NAMES)
    total = torch.stack(list(shapley_values(SHAPLEY_NAMES, value).values())).sum(dim=0)
    torch.testing.assert_close(total, value(frozenset(SHAPLEY_NAMES)) - value(frozenset()), rtol=0, atol=1e-12)


@pytest.mark.quick
def test_players_who_add_the_same_everywhere_get_the_same_and_one_who_adds_nothing_gets_nothing():
    worth = {"a": 2.0, "b": 2.0, "c": 5.0, "d": 0.0}
    pair = {"a", "b"}

    def value(subset):
        return torch.tensor(sum(worth[name] for name in subset) + 3.0 * (pair <= subset), dtype=torch.float64)

    found = shapley_values(tuple(worth), value)
    assert [float(found[name]) for name in "abcd"] == pytest.approx([3.5, 3.5, 5.0, 0.0], abs=1e-12)


@pytest.mark.quick
def test_a_known_game():
    """Gloves: one left glove, two right ones, a pair is worth 1."""
    found = shapley_values(("left", "r1", "r2"), lambda s: torch.tensor(float("left" in s and len(s) > 1)))
    assert [float(found[name]) for name in ("left", "r1", "r2")] == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@pytest.mark.quick
def test_nobody_plays():
    assert shapley_values((), lambda subset: torch.zeros(3)) == {}


@pytest.mark.quick
def test_too_many_players_are_refused_before_any_subset_is_valued():
    value, asked = random_game(())
    with pytest.raises(ValueError, match=f"at most {MOST_PLAYERS} players, .* found {MOST_PLAYERS + 1}"):
        shapley_values([f"m{number}" for number in range(MOST_PLAYERS + 1)], value)
    assert asked == []


# --- an epoch's batches ----------------------------------------------------------------------------------------------


CPU = torch.device("cpu")


def epoch(items, size, lengths=None, seed=0):
    return list(batches(items, size, torch_stream(seed, "order"), CPU, lengths))


def padded(found, lengths):
    return sum(int(lengths[batch].max()) * len(batch) for batch in found)


@pytest.mark.quick
@pytest.mark.parametrize("items", [1, 7, 16, 85, 300])
@pytest.mark.parametrize("ragged", [False, True])
def test_an_epoch_holds_every_item_once_in_batches_of_the_size_asked_for(items, ragged):
    lengths = torch.arange(items) % 11 + 1 if ragged else None
    found = epoch(items, 16, lengths)
    assert torch.cat(found).sort().values.tolist() == list(range(items))
    assert sorted(map(len, found), reverse=True) == [16] * (items // 16) + [items % 16] * (items % 16 > 0)


@pytest.mark.quick
def test_items_of_like_length_come_together():
    lengths = (torch.randn(200, generator=torch.Generator().manual_seed(1)) * 0.6 + 5).exp().long() + 1
    assert padded(epoch(200, 16, lengths), lengths) < 0.7 * padded(epoch(200, 16), lengths)


@pytest.mark.quick
def test_batches_of_a_small_site_differ_from_epoch_to_epoch_and_repeat_with_the_seed():
    lengths = torch.arange(40) + 10
    stream = torch_stream(0, "order")
    first, second = ([set(b.tolist()) for b in batches(40, 8, stream, CPU, lengths)] for _ in range(2))
    assert not any(batch in second for batch in first)
    assert [set(b.tolist()) for b in epoch(40, 8, lengths)] == first

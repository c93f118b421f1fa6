"""Shapley values against the mean over all orders of joining, and against their axioms."""

import math
from itertools import permutations

import pytest
import torch

from fedrecon_core.local.by_modality import MOST_PLAYERS, shapley_values

pytestmark = pytest.mark.quick

NAMES = tuple("abcde")


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


@pytest.mark.parametrize("players", [NAMES[:1], NAMES[:2], NAMES[:3], NAMES])
def test_they_are_the_mean_over_all_orders_of_joining(players):
    value, _ = random_game(players, seed=len(players))
    found, expected = shapley_values(players, value), over_all_orders(players, value)
    assert found.keys() == expected.keys()
    for player in players:
        torch.testing.assert_close(found[player], expected[player], rtol=0, atol=1e-12)


def test_every_subset_is_valued_once():
    value, asked = random_game(NAMES)
    shapley_values(NAMES, value)
    assert len(asked) == len(set(asked)) == 2 ** len(NAMES)


def test_together_they_are_what_all_players_add_to_none():
    value, _ = random_game(NAMES)
    total = torch.stack(list(shapley_values(NAMES, value).values())).sum(dim=0)
    torch.testing.assert_close(total, value(frozenset(NAMES)) - value(frozenset()), rtol=0, atol=1e-12)


def test_players_who_add_the_same_everywhere_get_the_same_and_one_who_adds_nothing_gets_nothing():
    worth = {"a": 2.0, "b": 2.0, "c": 5.0, "d": 0.0}
    pair = {"a", "b"}

    def value(subset):
        return torch.tensor(sum(worth[name] for name in subset) + 3.0 * (pair <= subset), dtype=torch.float64)

    found = shapley_values(tuple(worth), value)
    assert [float(found[name]) for name in "abcd"] == pytest.approx([3.5, 3.5, 5.0, 0.0], abs=1e-12)


def test_a_known_game():
    """Gloves: one left glove, two right ones, a pair is worth 1."""
    found = shapley_values(("left", "r1", "r2"), lambda s: torch.tensor(float("left" in s and len(s) > 1)))
    assert [float(found[name]) for name in ("left", "r1", "r2")] == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_nobody_plays():
    assert shapley_values((), lambda subset: torch.zeros(3)) == {}


def test_too_many_players_are_refused_before_any_subset_is_valued():
    value, asked = random_game(())
    with pytest.raises(ValueError, match=f"at most {MOST_PLAYERS} players, .* found {MOST_PLAYERS + 1}"):
        shapley_values([f"m{number}" for number in range(MOST_PLAYERS + 1)], value)
    assert asked == []

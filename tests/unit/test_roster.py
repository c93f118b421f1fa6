"""Which nodes may act for which sites."""

import pytest

from server.roster import choose
from strategies.messages import Holding, OwnData, SiteInfo

pytestmark = pytest.mark.quick

OWN = OwnData("{}", "1", {"train": Holding(3, {"m0": 3})})


def info(name: str, code: str = "code", spec: str = "spec", own: OwnData | None = OWN) -> SiteInfo:
    return SiteInfo(name, code, spec, ("m0",), 3, {}, own)


def test_every_fitting_site_is_taken_in_under_its_name():
    accepted, refused = choose({7: info("b"), 3: info("a")}, {}, "code", "spec")
    assert accepted == {"a": 3, "b": 7}
    assert refused == {}


@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (info("b", code="old"), "site b runs other code: expected code hash code, found old"),
        (info("b", spec="else"), "site b has another data set: expected spec hash spec, found else"),
        (info("b", own=None), "site b brings no data of its own; give its SuperNode site=, data= and state="),
    ],
)
def test_a_site_that_does_not_fit_is_refused_in_words_and_the_others_stay(stranger, words):
    accepted, refused = choose({3: info("a"), 7: stranger}, {}, "code", "spec")
    assert accepted == {"a": 3}
    assert list(refused) == [7]
    assert refused[7].startswith(words)


def test_without_a_specification_the_most_common_one_counts_and_the_first_among_equals():
    met = {1: info("a", spec="y"), 2: info("b", spec="x"), 3: info("c", spec="x")}
    assert set(choose(met, {}, "code", None)[0]) == {"b", "c"}
    assert set(choose({1: info("a", spec="y"), 2: info("b", spec="x")}, {}, "code", None)[0]) == {"b"}


def test_two_new_nodes_of_one_name_are_both_refused():
    accepted, refused = choose({1: info("a"), 2: info("a"), 3: info("b")}, {}, "code", "spec")
    assert accepted == {"b": 3}
    assert refused[1] == refused[2]
    assert refused[1].startswith("2 nodes call themselves site a")


def test_a_second_node_cannot_take_the_place_of_one_that_is_connected():
    accepted, refused = choose({1: info("a"), 5: info("a")}, {"a": 5}, "code", "spec")
    assert accepted == {"a": 5}
    assert refused[1].startswith("a second node calls itself site a")

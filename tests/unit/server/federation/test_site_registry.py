"""Which nodes may act for which sites."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fedrecon_core.config import parse
from fedrecon_core.errors import RunError
from server.engines.base import Job
from server.engines.inprocess import InProcessGrid
from server.federation import messaging
from server.federation import registry as registry_module
from server.federation.messaging import Channel, WireMeter
from server.federation.registry import Choice, SiteRegistry, choose
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import Holding, OwnData, SiteInfo
from tests.helpers.processes import Clock
from tests.helpers.toy import toy_settings, toy_spec

pytestmark = pytest.mark.quick

OWN = OwnData("{}", "1", {"train": Holding(3, {"m0": 3})})


def info(name: str, code: str = "code", spec: str = "spec", own: OwnData | None = OWN) -> SiteInfo:
    return SiteInfo(name, code, spec, ("m0",), 3, {}, own)


def test_every_fitting_site_is_taken_in_under_its_name():
    choice = choose({7: info("b"), 3: info("a")}, {}, "code", "spec")
    assert choice == Choice({"a": 3, "b": 7})


@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (info("b", code="old"), "site b runs other code: expected code hash code, found old"),
        (info("b", spec="else"), "site b has another data set: expected spec hash spec, found else"),
        (info("b", own=None), "site b has no data of its own; give its SuperNode site=, data= and state="),
    ],
)
def test_a_site_that_does_not_fit_is_refused_in_words_and_the_others_stay(stranger, words):
    choice = choose({3: info("a"), 7: stranger}, {}, "code", "spec")
    assert choice.accepted == {"a": 3}
    assert list(choice.misfits) == [7]
    assert choice.misfits[7].startswith(words)


def test_without_a_specification_the_most_common_one_counts_and_the_first_among_equals():
    met = {1: info("a", spec="y"), 2: info("b", spec="x"), 3: info("c", spec="x")}
    assert set(choose(met, {}, "code", None).accepted) == {"b", "c"}
    assert set(choose({1: info("a", spec="y"), 2: info("b", spec="x")}, {}, "code", None).accepted) == {"b"}


def test_two_new_nodes_of_one_name_are_both_refused():
    choice = choose({1: info("a"), 2: info("a"), 3: info("b")}, {}, "code", "spec")
    assert choice.accepted == {"b": 3}
    assert choice.namesakes[1] == choice.namesakes[2]
    assert choice.namesakes[1].startswith("2 nodes call themselves site a")


def test_a_second_node_cannot_take_the_place_of_one_that_is_connected():
    choice = choose({1: info("a"), 5: info("a")}, {"a": 5}, "code", "spec")
    assert choice.accepted == {"a": 5}
    assert choice.namesakes[1].startswith("a second node calls itself site a")


def test_nor_while_that_one_is_in_doubt():
    choice = choose({1: info("a")}, {"a": 5}, "code", "spec")
    assert choice.accepted == {}
    assert list(choice.namesakes) == [1]


# --- asking nodes ----------------------------------------------------------------------------------------------------

SPEC = toy_spec()
HELD = {split: Holding(3, {"features": 3}) for split in ("train", "validation", "test")}


class Nodes(InProcessGrid):
    """A grid of nodes that say who they are when asked, unless ``silent``; ``names`` may change at any time."""

    def __init__(self, names: dict[int, str], data: str = "data") -> None:
        super().__init__(Job(Path(), Path(), False, sites=0), None)  # gives new messages a run and a sender
        self.names, self.data = names, data
        self.silent: set[int] = set()
        self.broken: dict[int, str] = {}
        self.asked: list[int] = []

    def get_node_ids(self) -> list[int]:
        return list(self.names)

    def push_messages(self, sent):
        self.asked += [message.metadata.dst_node_id for message in sent]
        return [str(message.metadata.dst_node_id) for message in sent]

    def pull_messages(self, ids):
        return [self._reply(int(key)) for key in ids if int(key) not in self.silent]

    def forget(self, ids) -> None:
        """Nothing runs here."""

    def _reply(self, node: int):
        reason = self.broken.get(node)
        own = OwnData(SPEC.model_dump_json(), self.data, HELD)
        info = SiteInfo(self.names[node], code_hash(), SPEC.digest(), ("features",), 3, {}, own)
        return SimpleNamespace(
            metadata=SimpleNamespace(reply_to_message_id=str(node)),
            content=messages.write_site_info(info),
            error=SimpleNamespace(code=2, reason=reason),
            has_error=lambda: reason is not None,
        )


def registry_over(grid: Nodes, **sites: float) -> tuple[SiteRegistry, list[str]]:
    settings = toy_settings("mask", engine={"name": "deployment"}, sites={"count": 2, "wait": 1, **sites})
    notes: list[str] = []
    channel = Channel(grid, parse(settings), WireMeter(), notes.append)
    return SiteRegistry(channel, "{}", "run"), notes


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    found = Clock()
    for module in (registry_module, messaging):
        monkeypatch.setattr(module, "time", found)
    monkeypatch.setattr(registry_module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(registry_module, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(registry_module, "AGAIN_SECONDS", 0.01)
    return found


def test_a_silent_node_keeps_nobody_waiting_but_itself(clock):
    grid = Nodes({1: "slow", 2: "a", 3: "b"})
    grid.silent = {1}
    registry, notes = registry_over(grid)
    began = clock.monotonic()
    assert set(registry.refresh(0)) == {"a", "b"}
    assert clock.monotonic() - began < 0.9  # sites.wait is 1
    assert set(registry.refresh(1)) == {"a", "b"}
    assert grid.asked == [1, 2, 3]  # it still has the first question
    grid.silent = set()
    assert set(registry.refresh(2)) == {"a", "b", "slow"}
    assert notes == ["sites: a (node 2), b (node 3)", "round 2: site slow joined (node 1)"]


def test_a_wait_is_told_once_when_it_is_longer_than_usual(monkeypatch, clock):
    monkeypatch.setattr(registry_module, "QUIET_SECONDS", 0.05)
    grid = Nodes({1: "slow", 2: "a"})
    grid.silent = {1}
    registry, notes = registry_over(grid)
    clock.after(0.3, grid.silent.clear)
    registry.refresh(0)
    assert notes == [
        "round 0: 1 of at least 2 sites; waiting at most 1 s (sites.wait)",
        "sites: a (node 2), slow (node 1)",
    ]


def test_too_few_sites_are_told_with_the_silent_ones():
    grid = Nodes({1: "slow", 2: "a"})
    grid.silent = {1}
    registry, _ = registry_over(grid, wait=0.1)
    with pytest.raises(RunError, match=r"1 of at least 2 sites .*: a; 1 more connected \(no reply yet\); start"):
        registry.refresh(0)


def test_a_site_that_failed_is_asked_again_and_what_it_says_then_counts():
    grid = Nodes({1: "a", 2: "b"})
    registry, notes = registry_over(grid)
    registry.refresh(0)
    grid.data = "more data"
    assert {info.own.data_hash for info in registry.infos().values()} == {"data"}
    registry.mark_stale(["a", "nobody"])
    registry.refresh(1)
    assert grid.asked == [1, 2, 1]
    assert [info.own.data_hash for info in registry.infos().values()] == ["more data", "data"]
    assert len(notes) == 1  # who takes part


def test_a_site_that_changed_its_code_in_mid_run_is_refused_and_told(monkeypatch, clock):
    grid = Nodes({1: "a", 2: "b", 3: "c"})
    registry, notes = registry_over(grid)
    registry.refresh(0)
    monkeypatch.setitem(globals(), "code_hash", lambda: "other")
    registry.mark_stale(["b"])
    assert set(registry.refresh(1)) == {"a", "c"}
    assert any("site b runs other code: expected code hash" in line and "found other" in line for line in notes)
    assert "round 1: site b (node 2) is left out for now" in notes
    monkeypatch.undo()
    monkeypatch.setattr(registry_module, "GRACE_SECONDS", 0.05)
    clock.sleep(0.05)
    assert set(registry.refresh(2)) == {"a", "b", "c"}  # mended, it is taken in again


def test_a_site_that_is_still_at_work_counts_as_there_until_its_time_is_over(clock):
    grid = Nodes({1: "a", 2: "b"})
    registry, _ = registry_over(grid, wait=0.05, timeout=0.5)
    registry.refresh(0)
    registry.mark_stale(["b"])
    grid.silent = {2}
    clock.after(0.2, grid.silent.clear)
    assert set(registry.refresh(1)) == {"a", "b"}
    registry.mark_stale(["b"])
    grid.silent = {2}
    with pytest.raises(RunError, match=r"round 2: 1 of at least 2 sites"):
        registry.refresh(2)


def test_nobody_gets_the_name_of_a_site_that_is_in_doubt():
    grid = Nodes({1: "a", 2: "b", 3: "c"})
    registry, notes = registry_over(grid)
    registry.refresh(0)
    registry.mark_stale(["c"])
    grid.silent = {3}
    grid.names[9] = "c"
    assert set(registry.refresh(1)) == {"a", "b"}
    assert "a second node calls itself site c; it can take part under that name when the first has left" in notes
    grid.silent = set()
    assert registry.refresh(2)["c"] == 3


def test_what_a_node_said_before_it_went_is_not_used():
    grid = Nodes({1: "a", 2: "b", 3: "c"})
    grid.silent = {3}
    registry, notes = registry_over(grid)
    registry.refresh(0)
    del grid.names[3]
    grid.broken = {3: "Node Unavailable"}
    grid.names, names = {**grid.names, 3: "c"}, dict(grid.names)
    grid.get_node_ids = lambda: list(names)
    grid.silent = set()
    assert set(registry.refresh(1)) == {"a", "b"}
    assert not any("cannot take part" in line for line in notes)


def test_a_broken_node_is_told_once_and_again_when_it_breaks_again(clock):
    grid = Nodes({1: "a", 2: "b", 3: "c"})
    grid.broken = {3: "no [data] here"}
    registry, notes = registry_over(grid)
    registry.refresh(0)
    clock.sleep(0.02)
    registry.refresh(1)
    refused = "node 3 is connected and cannot take part: no [data] here"
    assert notes == [refused, "sites: a (node 1), b (node 2)"]
    grid.broken = {}
    clock.sleep(0.05)
    assert "c" in registry.refresh(2)
    grid.broken = {3: "no [data] here"}
    registry.mark_stale(["c"])
    registry.refresh(3)
    assert notes[2:] == [
        "round 2: site c joined (node 3)",
        refused,
        "round 3: site c (node 3) is left out for now",
    ]


def test_a_mended_site_is_no_reason_for_a_later_failure(clock):
    grid = Nodes({1: "a", 2: "b"})
    grid.broken = {1: "no data"}
    registry, _ = registry_over(grid, wait=0.1)
    with pytest.raises(RunError, match="no data"):
        registry.refresh(0)
    grid.broken = {}
    clock.sleep(0.05)
    registry.refresh(0)
    del grid.names[2]
    with pytest.raises(RunError) as failure:
        registry.refresh(1)
    assert "no data" not in str(failure.value)

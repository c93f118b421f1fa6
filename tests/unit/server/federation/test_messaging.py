"""Messages to sites: errors and missing replies become failures with a reason; the size of messages."""

from types import SimpleNamespace

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedrecon_core.errors import DataError, RunError
from server.federation import messaging as module
from server.federation.messaging import Deadline, Replies, ReplyError, WireMeter, exchange
from strategies import messages
from strategies.messages import write_error
from strategies.messages.replies import LONGEST_ERROR
from tests.helpers.processes import Clock

pytestmark = pytest.mark.quick


# --- exchange ---------------------------------------------------------------------------------------------------------


NAMES = {10: "site-0000", 11: "site-0001", 12: "site-0002"}


def sent(node: int) -> SimpleNamespace:
    records = {"run": {"site": NAMES[node]}}
    return SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node), content=SimpleNamespace(config_records=records))


class Reply:
    """The part of a Flower reply that is read: the message that it answers, its sender, and an error or a content."""

    def __init__(
        self, answers: str, source: int = 0, error: str | None = None, content: RecordDict | None = None
    ) -> None:
        self.metadata = SimpleNamespace(reply_to_message_id=answers, src_node_id=source)
        self.error = SimpleNamespace(code=2, reason=error)
        self.content = RecordDict() if content is None else content

    def has_error(self) -> bool:
        return self.error.reason is not None


class WeightlessMeter:
    """The messages here carry no records to weigh."""

    def add(self, content) -> None:
        pass


class FakeGrid:
    """Message ids are ``to-<node>``; each pull hands out the next batch of ``script``."""

    def __init__(self, *script: list[Reply]) -> None:
        self.script = list(script)
        self.asked: list[list[str]] = []

    def push_messages(self, messages):
        return [f"to-{message.metadata.dst_node_id}" for message in messages]

    def pull_messages(self, ids):
        self.asked.append(sorted(ids))
        return self.script.pop(0) if self.script else []


def run(grid: FakeGrid, *, timeout: float = 5.0, arrived=lambda name: None):
    return exchange(grid, [sent(node) for node in NAMES], Deadline(timeout), WeightlessMeter(), arrived)


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    return found


def test_replies_are_collected_by_site_as_they_come():
    replies, order = [Reply("to-12"), Reply("to-10"), Reply("to-11")], []
    grid = FakeGrid([replies[0]], [], replies[1:])
    found = run(grid, arrived=order.append)
    assert {name: id(content) for name, content in found.received.items()} == {
        "site-0002": id(replies[0].content),
        "site-0000": id(replies[1].content),
        "site-0001": id(replies[2].content),
    }
    assert found.failures == {}
    assert order == ["site-0002", "site-0000", "site-0001"]
    assert grid.asked == [["to-10", "to-11", "to-12"], ["to-10", "to-11"], ["to-10", "to-11"]]


def test_an_error_reply_belongs_to_the_site_whose_message_it_answers():
    """The SuperLink answers for a node that died, under a node id of its own."""
    found = run(FakeGrid([Reply("to-11", source=999, error="the node\n  is gone"), Reply("to-10"), Reply("to-12")]))
    assert found.failures == {"site-0001": "the node is gone"}
    assert set(found.received) == {"site-0000", "site-0002"}


def test_an_error_without_words_gives_its_code():
    found = run(FakeGrid([Reply("to-10", error=""), Reply("to-11"), Reply("to-12")]))
    assert found.failures == {"site-0000": "error 2"}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("<class 'KeyError'>:<''a''>", "<class 'KeyError'>:<''a''>"),
        ("ValueError: a: \n b", "ValueError: a: b"),
        ("Error: Node Unavailable - it ended", "Error: Node Unavailable - it ended"),
        ("", "error 2"),
    ],
)
def test_an_error_of_the_engine_is_one_line(reason, words):
    found = run(FakeGrid([Reply("to-10", error=reason), Reply("to-11"), Reply("to-12")]))
    assert found.failures == {"site-0000": words}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DataError("folder it's in: \n no [stamp]"), "folder it's in: no [stamp]"),
        (DataError("no data"), "no data"),
        (DataError(""), "DataError without a message"),
        (RunError("\x1b[31m" + "x" * 10_000), "?[31m" + "x" * (LONGEST_ERROR - 5)),
    ],
)
def test_an_error_of_the_site_is_its_message_in_one_short_line(error, words):
    found = run(FakeGrid([Reply("to-10", content=write_error(error)), Reply("to-11"), Reply("to-12")]))
    assert found.failures == {"site-0000": words}
    assert set(found.received) == {"site-0001", "site-0002"}


@pytest.mark.parametrize("record", [ConfigRecord(), ConfigRecord({"kind": 3, "message": [1, 2]}), MetricRecord()])
def test_whatever_stands_in_an_error_record_is_a_failure_and_no_exception(record):
    found = run(FakeGrid([Reply("to-10", content=RecordDict({"error": record})), Reply("to-11"), Reply("to-12")]))
    assert set(found.failures) == {"site-0000"} and found.failures["site-0000"]


def test_replies_are_decoded_in_site_order_and_a_bad_one_is_rejected_with_its_reason():
    def read(name: str, reply: str) -> str:
        if name == "b":
            raise ReplyError("no good")
        return reply.upper()

    found = Replies({"c": "z", "b": "y", "a": "x"}, {"d": "no answer"}).decode(read)
    assert list(found.received.items()) == [("a", "X"), ("c", "Z")]
    assert found.failures == {"d": "no answer", "b": "reply rejected: no good"}
    assert found.answered() == "2 of 4 sites answered"


def test_a_message_that_the_superlink_does_not_take_has_failed_at_once(clock):
    """Flower gives an empty id for a node that it does not know any more, and none at all for too large a push."""
    began = clock.now
    grid = FakeGrid([Reply("to-11")])
    grid.push_messages = lambda sent: ["", "to-11", ""]
    found = run(grid)
    assert found.failures == dict.fromkeys(["site-0000", "site-0002"], module.REFUSED)
    grid.push_messages = lambda sent: []
    assert run(grid).failures == dict.fromkeys(NAMES.values(), module.TOO_LARGE)
    assert clock.now == began


def test_the_longer_nothing_comes_the_rarer_the_looks():
    assert [module.pause(waited) for waited in (0.0, 10.0, 1000.0)] == [module.POLL_SECONDS, 0.5, 1.0]


def test_silence_until_the_deadline_is_a_failure_with_words(clock):
    began = clock.now
    found = run(FakeGrid([Reply("to-10")]), timeout=0.05)
    assert 0.05 <= clock.now - began < 0.06
    assert set(found.received) == {"site-0000"}
    assert found.failures == {"site-0001": "no answer in 0.05 s", "site-0002": "no answer in 0.05 s"}


def test_no_messages_need_no_waiting():
    grid = FakeGrid()
    found = exchange(grid, [], Deadline(1000.0), WeightlessMeter())
    assert (found.received, found.failures, grid.asked) == ({}, {}, [])


@pytest.mark.parametrize(("sites", "lanes", "seconds"), [(10, None, 2.0), (10, 1, 20.0), (10, 4, 6.0), (3, 4, 2.0)])
def test_sites_that_take_turns_get_their_time_each(sites, lanes, seconds):
    assert Deadline(2.0, lanes).seconds(sites) == seconds


# --- size of messages -------------------------------------------------------------------------------------------------


def content(scale: float = 1.0) -> RecordDict:
    groups = {
        "task.head": {"w": torch.randn(7, 3) * scale, "b": torch.randn(7)},
        "task.extractor.a": {"w": torch.ones(5)},
    }
    packed = RecordDict({name: messages.bundle(state) for name, state in groups.items()})
    packed["run"] = ConfigRecord({"config": "{}", "round": 3})
    return packed


def test_a_message_weighs_all_the_objects_that_flower_sends() -> None:
    message = content()
    assert WireMeter().weigh(message) == sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


def test_groups_are_weighed_once_whatever_their_values() -> None:
    meter = WireMeter()
    assert meter.weigh(content()) == meter.weigh(content(scale=100.0)) == WireMeter().weigh(content(scale=100.0))


def test_the_total_goes_on_where_a_resumed_run_stopped() -> None:
    meter = WireMeter(100)
    meter.add(content())
    assert meter.total == 100 + WireMeter().weigh(content())

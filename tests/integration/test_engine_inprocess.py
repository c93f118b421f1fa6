"""The in-process engine: replies, errors, state, processes."""

import contextlib
import json
import multiprocessing
import time
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedrecon_core.errors import RunError
from server.engines.base import ENGINES, Job
from server.engines.inprocess import InProcess, InProcessGrid
from server.engines.pool import Here, Pool
from tests.helpers.processes import PATIENCE

TOYS = Path(__file__).resolve().parents[1] / "helpers"


@pytest.fixture(scope="module", autouse=True)
def _toys():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOYS))
        yield


@pytest.fixture(scope="module")
def pool(_toys):
    """Two processes for the tests of this file: starting them takes longer than the tests."""
    pool = Pool("engine_toys:client", 2)
    yield pool
    pool.close()
    assert multiprocessing.active_children() == []


def make_job(tmp_path, sites=3, workers=1, timeout=None, **plan):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"sites": sites, **plan}))
    names = ("engine_toys:server", "engine_toys:client")
    return Job(config, tmp_path, False, sites=sites, workers=workers, timeout=timeout, components=names)


@pytest.fixture(params=["here", "pool"])
def grid(request, tmp_path):
    import engine_toys

    runner = Here(engine_toys.client) if request.param == "here" else request.getfixturevalue("pool")
    return InProcessGrid(make_job(tmp_path), runner)


@pytest.fixture
def pooled(tmp_path, pool):
    return InProcessGrid(make_job(tmp_path), pool)


def ask(grid, action, nodes=None, timeout=None):
    nodes = grid.get_node_ids() if nodes is None else nodes
    replies = grid.send_and_receive([Message(RecordDict(), node, action) for node in nodes], timeout=timeout)
    return {reply.metadata.src_node_id: reply for reply in replies}


def counts(replies):
    return [int(replies[node].content["count"]["n"]) for node in sorted(replies)]


def test_the_private_import_is_where_it_was():
    """Flower gives no public way to say which run a process belongs to. If this fails, look for its new place."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 6, 7
    message = Message(RecordDict(), 2, "query.count")
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.src_task_id) == (5, 6, 7)


def test_every_node_replies_and_keeps_its_state(grid):
    assert counts(ask(grid, "query.count")) == [1, 1, 1]
    node = grid.get_node_ids()[1]
    assert counts(ask(grid, "query.count", [node, node])) == [3]
    replies = ask(grid, "query.count")
    assert counts(replies) == [2, 4, 2]
    assert [int(replies[node].content["count"]["partition"]) for node in sorted(replies)] == [0, 1, 2]


def test_an_exception_becomes_an_error_reply_and_leaves_the_state(grid, caplog):
    ask(grid, "query.count")
    replies = ask(grid, "train.raise")
    assert {reply.error.code for reply in replies.values()} == {2}
    assert {reply.error.reason for reply in replies.values()} == {"ValueError: no data here"}
    assert "in fail" in caplog.text  # the traceback is not lost
    assert counts(ask(grid, "query.count")) == [2, 2, 2]


@pytest.mark.parametrize(
    ("action", "reason"),
    [("exit", "SystemExit: 4"), ("nothing", "must return a Message, found NoneType"), ("unknown", "No train function")],
)
def test_other_faults_of_a_client(grid, action, reason):
    node = grid.get_node_ids()[0]
    assert reason in ask(grid, f"train.{action}", [node])[node].error.reason


def test_a_client_cannot_change_what_the_server_holds(grid):
    content = RecordDict({"kept": ConfigRecord({"a": 1})})
    grid.send_and_receive([Message(content, node, "train.drop") for node in grid.get_node_ids()])
    assert dict(content["kept"]) == {"a": 1}


def test_messages_run_one_at_a_time_between_pulls(tmp_path):
    import engine_toys

    grid = InProcessGrid(make_job(tmp_path), Here(engine_toys.client))
    ids = grid.push_messages(
        grid.create_message(RecordDict(), "query.count", node, group_id="1") for node in grid.get_node_ids()
    )
    assert len(set(ids)) == 3
    for key in ids:
        (reply,) = grid.pull_messages(ids)
        assert reply.metadata.reply_to_message_id == key
        assert reply.metadata.group_id == "1"
    assert grid.pull_messages(ids) == []


def test_an_unknown_node_is_refused(grid):
    with pytest.raises(ValueError, match="no node 99"):
        ask(grid, "query.count", [99])


def test_a_process_that_dies_costs_one_message(pooled):
    first, second, third = pooled.get_node_ids()
    replies = ask(pooled, "train.die")
    assert (replies[first].error.code, replies[first].error.reason) == (8, "the site's process ended (exit code 7)")
    assert replies[second].has_content()
    assert replies[third].has_content()
    assert counts(ask(pooled, "query.count")) == [1, 1, 1]


def push(grid, action, nodes):
    return grid.push_messages([grid.create_message(RecordDict(), action, node, "1") for node in nodes])


def pull(grid, ids, seconds=PATIENCE):
    """Ask again and again, as the server does; the replies by the message that they answer."""
    replies, end = {}, time.monotonic() + seconds
    while len(replies) < len(ids) and time.monotonic() < end:
        found = grid.pull_messages([key for key in ids if key not in replies])
        replies |= {reply.metadata.reply_to_message_id: reply for reply in found}
    return replies


def nothing_is_left(grid, pool):
    return not (grid._queue or grid._running or grid._replies or pool._busy)


def test_a_hung_site_is_ended_and_its_retry_works(tmp_path, pool):
    grid = InProcessGrid(make_job(tmp_path, timeout=3), pool)
    nodes = grid.get_node_ids()
    ask(grid, "query.count")
    ids = push(grid, "train.sleep", nodes) + push(grid, "query.count", nodes)
    replies = pull(grid, ids)
    assert [replies[key].has_error() for key in ids] == [True] + [False] * 5
    assert replies[ids[0]].error.reason == "no answer in 3 s"
    assert [int(replies[key].content["count"]["n"]) for key in ids[3:]] == [2, 2, 2]
    assert nothing_is_left(grid, pool)


def test_the_start_of_a_process_makes_no_site_late(tmp_path):
    with contextlib.closing(Pool("engine_toys:client", 1)) as pool:
        grid = InProcessGrid(make_job(tmp_path, sites=1, timeout=0.2), pool)
        begin = time.monotonic()
        assert counts(ask(grid, "query.count")) == [1]
        assert time.monotonic() - begin > 0.2  # else this shows nothing


def test_a_caller_may_set_a_limit_of_its_own(pooled):
    ask(pooled, "query.count")
    replies = ask(pooled, "train.sleep", timeout=3)
    assert [replies[node].has_error() for node in pooled.get_node_ids()] == [True, False, False]


def test_what_nobody_waits_for_is_dropped(pooled, pool):
    nodes = pooled.get_node_ids()
    ask(pooled, "query.count")
    hung = push(pooled, "train.sleep", nodes[:1])
    queued = push(pooled, "query.count", nodes[:1])
    pooled.pull_messages(hung)
    answered = push(pooled, "query.count", nodes[1:])
    assert pull(pooled, answered[:1])
    while answered[1] not in pooled._replies:
        pooled.pull_messages([])
    pooled.forget([*hung, *queued, *answered])
    assert nothing_is_left(pooled, pool)
    assert counts(ask(pooled, "query.count")) == [2, 3, 3]


def test_one_process_forgets_what_has_not_run(tmp_path):
    import engine_toys

    grid = InProcessGrid(make_job(tmp_path), Here(engine_toys.client))
    ids = push(grid, "query.count", grid.get_node_ids())
    assert len(pull(grid, ids[:1])) == 1
    grid.forget(ids)
    assert grid.pull_messages(ids) == []
    assert counts(ask(grid, "query.count")) == [2, 1, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run(tmp_path, workers):
    before = set(multiprocessing.active_children())
    ENGINES.get("inprocess")().run(make_job(tmp_path, workers=workers, rounds=2))
    first, second = json.loads((tmp_path / "result.json").read_text())["replies"]
    assert [reply["n"] for reply in first + second] == [1, 1, 1, 2, 2, 2]
    assert [reply["partition"] for reply in second] == [0, 1, 2]
    assert len({reply["pid"] for reply in second}) == workers
    assert set(multiprocessing.active_children()) == before


def test_a_server_that_raises_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"^the server failed: RuntimeError: stop$"):
        InProcess().run(make_job(tmp_path, **{"raise": True}))


def test_an_app_that_is_not_there(tmp_path):
    job = Job(tmp_path, tmp_path, False, sites=1, components=("engine_toys:server", "engine_toys:missing"))
    with pytest.raises(RunError, match="cannot load the app 'engine_toys:missing'"):
        InProcess().run(job)


def test_an_interrupt_leaves_no_process(tmp_path, monkeypatch):
    before = set(multiprocessing.active_children())

    def interrupted(grid, context):
        grid.push_messages([Message(RecordDict(), node, "train.sleep") for node in grid.get_node_ids()])
        grid.pull_messages([])
        assert len(multiprocessing.active_children()) == len(before) + 2
        raise KeyboardInterrupt

    import engine_toys

    monkeypatch.setattr(engine_toys, "server", interrupted)
    with pytest.raises(KeyboardInterrupt):
        InProcess().run(make_job(tmp_path, workers=2))
    assert set(multiprocessing.active_children()) == before

"""The in-process engine (replies, errors, state, processes), and following a run on a SuperLink."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedrecon_core.errors import ConfigError, FedReconError, RunError
from server.engines import deployment, flower, run_log
from server.engines.base import ENGINES, Job
from server.engines.deployment import follow
from server.engines.inprocess import InProcess, InProcessGrid
from server.engines.pool import Here, Pool
from server.engines.superlink import SuperLink
from tests.helpers.processes import PATIENCE, wait_until

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


def test_private_flower_import_still_exists():
    """Flower has no public API to set the run of a process. If this fails, find the new location of the import."""
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
def test_faults_of_a_client_become_error_replies(grid, action, reason):
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


def test_unknown_node_is_refused(grid):
    with pytest.raises(ValueError, match="no node 99"):
        ask(grid, "query.count", [99])


def test_dead_process_loses_one_message_only(pooled):
    first, second, third = pooled.get_node_ids()
    replies = ask(pooled, "train.die")
    assert (replies[first].error.code, replies[first].error.reason) == (8, "the site's process ended (exit code 7)")
    assert replies[second].has_content()
    assert replies[third].has_content()
    assert counts(ask(pooled, "query.count")) == [1, 1, 1]


def push(grid, action, nodes):
    return grid.push_messages([grid.create_message(RecordDict(), action, node, "1") for node in nodes])


def pull(grid, ids, seconds=PATIENCE):
    """Poll like the server; return message id -> reply."""
    replies, end = {}, time.monotonic() + seconds
    while len(replies) < len(ids) and time.monotonic() < end:
        found = grid.pull_messages([key for key in ids if key not in replies])
        replies |= {reply.metadata.reply_to_message_id: reply for reply in found}
    return replies


def nothing_is_left(grid, pool):
    return not (grid._queue or grid._running or grid._replies or pool._busy)


def test_hung_site_is_ended_and_its_retry_succeeds(tmp_path, pool):
    grid = InProcessGrid(make_job(tmp_path, timeout=3), pool)
    nodes = grid.get_node_ids()
    ask(grid, "query.count")
    ids = push(grid, "train.sleep", nodes) + push(grid, "query.count", nodes)
    replies = pull(grid, ids)
    assert [replies[key].has_error() for key in ids] == [True] + [False] * 5
    assert replies[ids[0]].error.reason == "no answer in 3 s"
    assert [int(replies[key].content["count"]["n"]) for key in ids[3:]] == [2, 2, 2]
    assert nothing_is_left(grid, pool)


def test_start_of_a_process_does_not_count_towards_the_timeout(tmp_path):
    with contextlib.closing(Pool("engine_toys:client", 1)) as pool:
        grid = InProcessGrid(make_job(tmp_path, sites=1, timeout=0.2), pool)
        begin = time.monotonic()
        assert counts(ask(grid, "query.count")) == [1]
        assert time.monotonic() - begin > 0.2  # otherwise the test proves nothing


def test_timeout_of_the_caller_is_respected(pooled):
    ask(pooled, "query.count")
    replies = ask(pooled, "train.sleep", timeout=3)
    assert [replies[node].has_error() for node in pooled.get_node_ids()] == [True, False, False]


def test_forgotten_messages_are_dropped(pooled, pool):
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


def test_single_process_forgets_messages_that_have_not_run(tmp_path):
    import engine_toys

    grid = InProcessGrid(make_job(tmp_path), Here(engine_toys.client))
    ids = push(grid, "query.count", grid.get_node_ids())
    assert len(pull(grid, ids[:1])) == 1
    grid.forget(ids)
    assert grid.pull_messages(ids) == []
    assert counts(ask(grid, "query.count")) == [2, 1, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_engine_runs_server_and_clients(tmp_path, workers):
    before = set(multiprocessing.active_children())
    ENGINES.get("inprocess")().run(make_job(tmp_path, workers=workers, rounds=2))
    first, second = json.loads((tmp_path / "result.json").read_text())["replies"]
    assert [reply["n"] for reply in first + second] == [1, 1, 1, 2, 2, 2]
    assert [reply["partition"] for reply in second] == [0, 1, 2]
    assert len({reply["pid"] for reply in second}) == workers
    assert set(multiprocessing.active_children()) == before


def test_server_error_is_reported_in_one_line(tmp_path):
    with pytest.raises(RunError, match=r"^the server failed: RuntimeError: stop$"):
        InProcess().run(make_job(tmp_path, **{"raise": True}))


def test_missing_app_is_reported(tmp_path):
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


# --- what a watcher of a run on a SuperLink reads ---------------------------------------------------------------------

RUN = "7"
UNAVAILABLE = "Connection to the SuperLink is unavailable."

_PROGRAM = """\
#!{python} -I
import json, sys, time
from pathlib import Path

here, (command, *arguments) = Path({folder!r}), sys.argv[1:]
state = lambda: json.loads((here / "state.json").read_text())
show = lambda **answer: print(json.dumps(answer))

def stream():
    with (here / "streams.txt").open("a") as file:
        print(__import__("os").getpid(), file=file, flush=True)
    print("Using SuperLink: fake (127.0.0.1:1)", flush=True)
    shown = 0
    while True:
        now = state()
        if now["down"]:
            sys.exit(1)
        if not now["deaf"]:
            log = (here / "log.txt").read_text()
            print(log[shown:], end="", flush=True)
            shown = len(log)
            if now["status"].startswith("finished"):
                return
        time.sleep(0.02)

if command == "log":
    stream()
elif state()["down"]:
    show(success=False, **{{"error-message": {unavailable!r}}})
else:
    now = state()
    run = {{"run-id": {run!r}, "status": now["status"], "status-details": now["details"], "pending-at": "then"}}
    show(success=True, runs=[run])
"""


class FakeFlwr:
    """A fake ``flwr`` program and its one run. ``deaf``: log streams print nothing and never end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, folder / "flwr"
        text = _PROGRAM.format(python=sys.executable, folder=str(folder), unavailable=UNAVAILABLE, run=RUN)
        self.program.write_text(text)
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        (folder / "log.txt").touch()
        (folder / "streams.txt").touch()
        self._state = {"status": "running", "details": "N/A", "down": False, "deaf": False}
        self.set()

    def set(self, **changes: str | bool) -> None:
        """Change what the commands answer: ``status``, ``details``, ``down``, ``deaf``."""
        self._state |= changes
        partial = self.folder / "state.partial"
        partial.write_text(json.dumps(self._state))
        partial.replace(self.folder / "state.json")

    def log(self, text: str) -> None:
        """Add ``text`` to the log of the run."""
        with (self.folder / "log.txt").open("a") as file:
            file.write(text)

    def streams(self) -> list[int]:
        """The processes that were started to read the log."""
        return [int(line) for line in (self.folder / "streams.txt").read_text().split()]

    def alive(self) -> list[int]:
        """The log processes that are still running."""
        return [process for process in self.streams() if _exists(process)]


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


TRACEBACK = """\
\x1b[91mERROR \x1b[0m:     ServerApp raised an exception
Traceback (most recent call last):
  File "server/app.py", line 42, in main
    run(grid)
    ^^^^^^^^^
fedrecon_core.errors.ConfigError: rounds: too few

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "server/app.py", line 44, in main
    raise reportable(error) from error
fedrecon_core.errors.UsageError: rounds: too few (exit code 2)
\x1b[91mERROR \x1b[0m:     Exit Code: 201

An unhandled exception occurred in the ServerApp.

For more information, visit: <https://flower.ai>
"""
FAR = SuperLink("far")
RAISED = "ServerApp failed with exception: "


@pytest.fixture
def flwr(tmp_path, monkeypatch) -> FakeFlwr:
    fake = FakeFlwr(tmp_path)
    monkeypatch.setattr(flower, "program", lambda name: str(fake.program))
    monkeypatch.setattr(deployment, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(run_log, "RESTART_SECONDS", 0.1)
    monkeypatch.setattr(run_log, "CLOSE_SECONDS", 0.5)
    return fake


class Watching:
    """``follow`` in a thread, its output and its error. (``capsys`` loses output of a thread while the test reads.)"""

    def __init__(self, link: SuperLink) -> None:
        self._console = io.StringIO()
        self.link = link
        self.error: FedReconError | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Wait for the thread, which a failed test may have left behind."""
        self._thread.join(PATIENCE)

    def _follow(self) -> None:
        with contextlib.redirect_stdout(self._console):
            try:
                follow(self.link, RUN)
            except FedReconError as error:
                self.error = error

    def output(self) -> str:
        return self._console.getvalue()

    def until(self, words: str) -> None:
        wait_until(f"'{words}' is printed", lambda: words in self.output())

    def end(self) -> list[str]:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the command hangs"
        return self.output().splitlines()


@pytest.fixture
def watch(flwr) -> Iterator[Callable[..., Watching]]:
    """A function that follows the run, over the connection ``far`` by default."""
    started: list[Watching] = []

    def begin(link: SuperLink = FAR) -> Watching:
        started.append(Watching(link))
        return started[-1]

    yield begin
    flwr.set(status="finished:stopped", down=False, deaf=False)
    for watching in started:
        watching.leave()


def test_run_is_followed_line_by_line_and_its_log_process_ends(flwr, watch):
    watching = watch()
    flwr.log("\x1b[92mINFO \x1b[0m:      Flower's own\nrun directory /runs/a b\n")
    watching.until("run directory /runs/a b\n")
    assert len(flwr.alive()) == 1
    flwr.log("round 1/1 [/x] done\n")
    watching.until("round 1/1 [/x] done\n")
    flwr.log("the last line\n")
    flwr.set(status="finished:completed")
    assert watching.end() == ["run directory /runs/a b", "round 1/1 [/x] done", "the last line"]
    assert watching.error is None
    assert flwr.alive() == []


def test_end_of_a_run_is_detected_without_waiting_for_the_next_poll(flwr, watch, monkeypatch):
    monkeypatch.setattr(deployment, "POLL_SECONDS", 3600.0)
    flwr.log("round 1/1\n")
    watching = watch()
    watching.until("round 1/1")
    flwr.set(status="finished:completed")
    assert watching.end() == ["round 1/1"]


def test_end_of_a_run_is_detected_if_the_log_connection_died_silently(flwr, watch):
    flwr.log("round 1/2\n")
    watching = watch()
    watching.until("round 1/2")
    flwr.set(deaf=True)
    flwr.log("round 2/2\n")
    wait_until("status asked", lambda: len(flwr.alive()) == 1)
    flwr.set(deaf=True, status="finished:completed")
    wait_until("the end was seen: the log is read once more", lambda: len(flwr.streams()) > 1)
    flwr.set(deaf=False)
    assert watching.end() == ["round 1/2", "round 2/2"]
    assert flwr.alive() == []


def test_command_ends_even_if_the_log_stays_silent(flwr, watch, monkeypatch):
    monkeypatch.setattr(run_log, "LAST_SECONDS", 0.3)
    flwr.set(deaf=True, status="finished:completed")
    watching = watch()
    assert watching.end() == ["(the end of the log could not be read)"]
    assert watching.error is None
    assert flwr.alive() == []


def test_silent_log_is_reopened_during_the_run(flwr, watch, monkeypatch):
    monkeypatch.setattr(run_log, "SILENCE_SECONDS", 2.0)
    flwr.log("round 1/2\n")
    watching = watch()
    watching.until("round 1/2")
    [first] = flwr.streams()
    flwr.set(deaf=True)
    wait_until("it is read anew", lambda: len(flwr.streams()) > 1)
    wait_until("one process at a time", lambda: first not in flwr.alive())
    flwr.set(deaf=False)
    flwr.log("round 2/2\n")
    watching.until("round 2/2")
    flwr.set(status="finished:completed")
    assert watching.end() == ["round 1/2", "round 2/2"]


def test_lost_connection_and_its_return_are_reported_at_once(flwr, watch):
    flwr.log("round 1/2\nround 2")
    watching = watch()
    watching.until("round 1/2")
    flwr.set(down=True)
    watching.until(f"lost the SuperLink (flwr list: {UNAVAILABLE}); retrying for 60 s")
    flwr.log("/2\n")  # the connection broke in the middle of a line
    flwr.set(down=False, deaf=True)
    watching.until("the SuperLink answers again")
    flwr.set(deaf=False)
    watching.until("round 2/2")
    flwr.set(status="finished:completed")
    printed = watching.end()
    assert [line for line in printed if line.startswith("round")] == ["round 1/2", "round 2/2"]
    assert len(printed) == 4


def test_hanging_log_process_is_replaced_once_the_superlink_answers(flwr, watch):
    flwr.log("round 1/2\n")
    watching = watch()
    watching.until("round 1/2")
    [first] = flwr.streams()
    os.kill(first, signal.SIGSTOP)
    flwr.set(down=True)
    watching.until("lost the SuperLink")
    flwr.log("round 2/2\n")
    flwr.set(down=False)
    watching.until("round 2/2")
    wait_until("the first has ended", lambda: first not in flwr.alive())
    flwr.set(status="finished:completed")
    assert watching.end()[-2:] == ["the SuperLink answers again", "round 2/2"]


def test_command_gives_up_if_the_superlink_stays_unreachable(flwr, watch, monkeypatch):
    monkeypatch.setattr(deployment, "PATIENCE_SECONDS", 0.5)
    flwr.log("run directory /runs/a b\n")
    watching = watch()
    watching.until("run directory")
    flwr.set(down=True)
    watching.end()
    assert isinstance(watching.error, RunError)
    error = str(watching.error)
    assert error.startswith(
        f"the SuperLink has not answered for 0.5 s (flwr list: {UNAVAILABLE}); the run continues if the SuperLink does."
    )
    assert "Follow it: fedrecon follow 7 --superlink far   stop it: fedrecon stop 7 --superlink far" in error
    assert "fedrecon run --resume --out '/runs/a b' --engine deployment --superlink far" in error
    assert flwr.alive() == []


def test_error_that_the_run_survives_hides_no_later_line(flwr, watch):
    flwr.log(
        "round 1/3\nERROR :     a hiccup\nTraceback (most recent call last):\n  File x\nValueError: odd\nround 2/3\n"
    )
    watching = watch()
    watching.until("round 2/3")
    flwr.log("round 3/3\n")
    watching.until("round 3/3")
    flwr.set(status="finished:completed")
    assert watching.end() == ["round 1/3", "ERROR :     a hiccup", "ValueError: odd", "round 2/3", "round 3/3"]


@pytest.mark.parametrize(
    ("details", "kind", "code"),
    [("rounds: too few (exit code 2)", ConfigError.__base__, 2), ("rounds: too few", RunError, 1)],
)
def test_failed_run_is_reported_without_a_traceback(flwr, watch, details, kind, code):
    flwr.log(f"run directory /runs/a\nfedrecon: rounds: too few\n{TRACEBACK}")
    flwr.set(status="finished:failed", details=RAISED + details)
    watching = watch()
    assert watching.end() == ["run directory /runs/a"]
    assert isinstance(watching.error, kind)
    assert (str(watching.error), watching.error.exit_code) == ("rounds: too few", code)


@pytest.mark.parametrize(
    ("link", "option"), [(SuperLink("far"), " --superlink far"), (SuperLink(None), "")], ids=["named", "default"]
)
def test_killed_run_is_reported_with_the_resume_command(flwr, watch, monkeypatch, tmp_path, link, option):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text("[superlink]\ndefault = 'near'\n[superlink.near]\naddress = '127.0.0.1:1'\n")
    flwr.log("run directory /runs/a\nERROR :     out of memory\n")
    flwr.set(status="finished:failed", details="No heartbeat received from the task")
    watching = watch(link)
    assert watching.end() == ["run directory /runs/a", "ERROR :     out of memory"]  # not reported anywhere else
    resume = f"resume with: fedrecon run --resume --out /runs/a --engine deployment{option}"
    assert str(watching.error) == f"run 7 failed: No heartbeat received from the task; {resume}"


def test_stopped_run_is_reported_with_the_resume_command(flwr, watch):
    flwr.set(status="finished:stopped")
    watching = watch()
    watching.end()
    resume = "resume with: fedrecon run --resume --out DIR --engine deployment --superlink far"
    assert re.fullmatch(f"run 7 was stopped; {resume}", str(watching.error))

"""What a person who watches a run on a SuperLink reads, over connections that break, die without a word and come
back; with real processes, and a stand-in for Flower's command."""

import contextlib
import io
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from fedrecon_core.errors import ConfigError, FedReconError, RunError
from server.engines import deployment, flower, run_log
from server.engines.deployment import follow
from server.engines.superlink import SuperLink
from tests.helpers.fake_flwr import RUN, UNAVAILABLE, FakeFlwr
from tests.helpers.processes import PATIENCE, wait_until

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
    """``follow`` in a thread, what it has said, and how it ended. (``capsys`` loses what a thread writes while the test
    reads.)"""

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

    def said(self) -> str:
        return self._console.getvalue()

    def until(self, words: str) -> None:
        wait_until(f"'{words}' is said", lambda: words in self.said())

    def end(self) -> list[str]:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the command hangs"
        return self.said().splitlines()


@pytest.fixture
def watch(flwr) -> Iterator[Callable[..., Watching]]:
    """Starts to watch the run, over the connection ``far`` unless another one is given."""
    started: list[Watching] = []

    def begin(link: SuperLink = FAR) -> Watching:
        started.append(Watching(link))
        return started[-1]

    yield begin
    flwr.set(status="finished:stopped", down=False, deaf=False)
    for watching in started:
        watching.leave()


def test_a_run_is_told_line_by_line_and_its_log_process_ends_with_it(flwr, watch):
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


def test_the_end_of_a_run_is_seen_without_waiting_for_the_next_look(flwr, watch, monkeypatch):
    monkeypatch.setattr(deployment, "POLL_SECONDS", 3600.0)
    flwr.log("round 1/1\n")
    watching = watch()
    watching.until("round 1/1")
    flwr.set(status="finished:completed")
    assert watching.end() == ["round 1/1"]


def test_the_end_of_a_run_is_seen_over_a_log_connection_that_died_without_a_word(flwr, watch):
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


def test_a_log_that_stays_silent_to_the_last_does_not_keep_the_command(flwr, watch, monkeypatch):
    monkeypatch.setattr(run_log, "LAST_SECONDS", 0.3)
    flwr.set(deaf=True, status="finished:completed")
    watching = watch()
    assert watching.end() == ["(the end of the log could not be read)"]
    assert watching.error is None
    assert flwr.alive() == []


def test_a_silent_log_is_read_anew_while_the_run_goes_on(flwr, watch, monkeypatch):
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


def test_a_lost_connection_is_told_at_once_and_so_is_its_return(flwr, watch):
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
    told = watching.end()
    assert [line for line in told if line.startswith("round")] == ["round 1/2", "round 2/2"]
    assert len(told) == 4


def test_a_log_process_that_hangs_is_replaced_when_the_superlink_is_back(flwr, watch):
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


def test_the_command_gives_up_on_a_superlink_that_stays_away(flwr, watch, monkeypatch):
    monkeypatch.setattr(deployment, "PATIENCE_SECONDS", 0.5)
    flwr.log("run directory /runs/a b\n")
    watching = watch()
    watching.until("run directory")
    flwr.set(down=True)
    watching.end()
    assert isinstance(watching.error, RunError)
    told = str(watching.error)
    assert told.startswith(
        f"the SuperLink has not answered for 0.5 s (flwr list: {UNAVAILABLE}); the run continues if the SuperLink does."
    )
    assert "Follow it: fedrecon follow 7 --superlink far   stop it: fedrecon stop 7 --superlink far" in told
    assert "fedrecon run --resume --out '/runs/a b' --engine deployment --superlink far" in told
    assert flwr.alive() == []


def test_a_fault_that_the_run_survives_hides_no_later_line(flwr, watch):
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
def test_a_failed_run_is_one_reason_without_a_traceback(flwr, watch, details, kind, code):
    flwr.log(f"run directory /runs/a\nfedrecon: rounds: too few\n{TRACEBACK}")
    flwr.set(status="finished:failed", details=RAISED + details)
    watching = watch()
    assert watching.end() == ["run directory /runs/a"]
    assert isinstance(watching.error, kind)
    assert (str(watching.error), watching.error.exit_code) == ("rounds: too few", code)


@pytest.mark.parametrize(
    ("link", "option"), [(SuperLink("far"), " --superlink far"), (SuperLink(None), "")], ids=["named", "default"]
)
def test_a_run_that_was_killed_says_how_to_go_on(flwr, watch, link, option):
    flwr.log("run directory /runs/a\nERROR :     out of memory\n")
    flwr.set(status="finished:failed", details="No heartbeat received from the task")
    watching = watch(link)
    assert watching.end() == ["run directory /runs/a", "ERROR :     out of memory"]  # nothing else tells it
    resume = f"resume with: fedrecon run --resume --out /runs/a --engine deployment{option}"
    assert str(watching.error) == f"run 7 failed: No heartbeat received from the task; {resume}"


def test_a_stopped_run_says_how_to_go_on(flwr, watch):
    flwr.set(status="finished:stopped")
    watching = watch()
    watching.end()
    resume = "resume with: fedrecon run --resume --out DIR --engine deployment --superlink far"
    assert re.fullmatch(f"run 7 was stopped; {resume}", str(watching.error))

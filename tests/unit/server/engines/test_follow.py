"""The follower: each round once, whatever a resume does to the file between two looks."""

import io
import re

import pytest
from rich.console import Console

from server.engines import follow
from server.engines.follow import Follower
from server.runs.directory import RunDirectory

pytestmark = pytest.mark.quick
NAME = "metrics.jsonl"


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path)


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def follower(directory, output):
    return Follower(Console(file=output, width=200), directory, rounds=9)


def write(directory, *rounds, attempt=1):
    scores = {"accuracy": 0.5, "uar": 0.5, "macro_f1": 0.5}
    for round_ in rounds:
        train = {"round": round_, "split": "train", "loss": round_ / 10, "train_seconds": attempt + round_ / 100}
        directory.append(NAME, [train, {"round": round_, "split": "validation", **scores}])


def shown(output):
    return [
        (int(round_), float(loss))
        for round_, loss in re.findall(r"round (\d+)/9  task loss ([\d.]+)", output.getvalue())
    ]


def test_rounds_are_shown_as_they_come(directory, output, monkeypatch):
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    with follower(directory, output):
        write(directory, 1, 2)
        write(directory, 3)
    assert shown(output) == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_a_line_is_shown_when_it_is_whole(directory, output):
    following = follower(directory, output)
    write(directory, 1)
    whole = (directory.path / NAME).read_bytes()
    (directory.path / NAME).write_bytes(whole[:-5])
    following.read()
    assert shown(output) == []
    (directory.path / NAME).write_bytes(whole)
    following.read()
    assert shown(output) == [(1, 0.1)]


@pytest.mark.parametrize("again", [1, 2, 3, 4])
def test_a_resume_repeats_rounds_between_two_looks(directory, output, again):
    """The file is then shorter, as long, or longer than it was; its first lines are the old ones."""
    write(directory, 1, 2, 3, 4)
    directory.append(NAME, [{"round": 2, "split": "test"}])
    following = follower(directory, output)
    assert following._progress.first == 5
    directory.drop_rounds_after(NAME, 2)
    write(directory, *range(3, 3 + again), attempt=2)
    following.read()
    following.read()
    assert [round_ for round_, _ in shown(output)] == list(range(3, 3 + again))
    assert following._progress.first == 3  # the remaining time counts from the first round of this attempt

"""Engines: the submitted app, the code hash, the processes of a run, and the progress of a run in another process."""

import hashlib
import io
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest
from rich.console import Console

from fedrecon_core.errors import RunError
from server.engines import follow, processes, submission
from server.engines.base import Job
from server.engines.follow import Follower
from server.engines.ray import NODES, federation_config
from server.runs.directory import RunDirectory
from strategies.code_hash import PACKAGES, code_hash, sources

pytestmark = pytest.mark.quick


# --- submission and processes -----------------------------------------------------------------------------------------


def test_the_app_holds_the_packages_as_they_are_imported(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "toy.py").write_text("x = 1\n")
    app = submission.write_app(tmp_path / "app", ("a:b", "c:d"), [tmp_path / "more", tmp_path / "more" / "toy.py"])
    written = {path.relative_to(app).as_posix(): path for package in PACKAGES for path in (app / package).rglob("*.py")}
    assert {name: path.read_bytes() for name, path in written.items()} == {
        name: path.read_bytes() for name, path in sources(".py").items()
    }
    assert (app / "toy.py").exists()
    assert (app / "more" / "toy.py").exists()
    project = tomllib.loads((app / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["components"] == {"serverapp": "a:b", "clientapp": "c:d"}
    assert project["tool"]["flwr"]["app"]["config"] == {"config": "", "out": "", "resume": False, "settings": ""}


def test_no_file_has_a_name_that_flower_leaves_out():
    """Flower drops such names from its bundle, and the hash there would differ from the one here."""
    names = [name.rsplit("/", 1)[-1] for name in sources(".py")]
    assert [name for name in names if name.startswith("test_") or name.endswith("_test.py")] == []


def test_an_app_that_is_too_large_is_refused(tmp_path):
    (tmp_path / "big.json").write_bytes(b"0" * (submission.BUNDLE_BYTES + 1))
    with pytest.raises(RunError, match="Flower takes 10485760"):
        submission.write_app(tmp_path / "app", ("a:b", "c:d"), [tmp_path / "big.json"])


def test_the_code_hash_sees_names_and_bytes(tmp_path):
    script = "import sys; sys.path[0] = sys.argv[1]; from strategies.code_hash import code_hash; print(code_hash())"

    def hashed():
        command = [sys.executable, "-c", script, str(app)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    app = submission.write_app(tmp_path / "app", ("a:b", "c:d"))
    assert hashed() == code_hash()
    assert len(code_hash()) == len(hashlib.sha256().hexdigest())
    (app / "server" / "added.py").touch()
    assert hashed() != code_hash()


def test_what_a_run_asks_of_ray(tmp_path):
    job = Job(tmp_path, tmp_path, False, sites=3, workers=8, cpus=2, gpus=0.5)
    assert federation_config(job) == (
        "num-supernodes=3 client-resources-num-cpus=2 client-resources-num-gpus=0.5 init-args-num-cpus=6"
    )
    assert f"num-supernodes={NODES} " in federation_config(replace(job, sites=10 * NODES))


def test_ending_the_processes_of_one_run_alone():
    """A process that ignores the request and one that left its group are ended too; another run's is not."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)"
    environment = {**os.environ, **processes.environment("this-run")}
    pipes = {"stdout": subprocess.PIPE}
    first = subprocess.Popen([sys.executable, "-c", parent], env=environment, **pipes)
    other_environment = {**os.environ, **processes.environment("other-run")}
    other = subprocess.Popen([sys.executable, "-c", stubborn], env=other_environment, **pipes)
    with first, other:
        first.stdout.readline()
        other.stdout.readline()
        first.wait(60)
        assert len(processes.marked("this-run")) == 1  # the child, whose parent is gone
        processes.end("this-run", grace=0.2)
        assert processes.marked("this-run") == []
        assert processes.marked("other-run") == [other.pid]
        other.kill()


# --- progress ---------------------------------------------------------------------------------------------------------


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

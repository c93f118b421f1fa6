"""The ray engine, run for real with a small app pair: results, failures, and that nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from fedrecon_core.errors import RunError, UsageError
from server.engines.base import ENGINES, Job
from server.engines.ray import Ray
from strategies.code_hash import code_hash
from tests.helpers.processes import PATIENCE, two_nodes, wait_until

pytestmark = pytest.mark.simulation

ROOT = Path(__file__).resolve().parents[2]
TOYS = ROOT / "tests" / "helpers" / "engine_toys.py"
SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
from server.engines.base import Job
from server.engines.ray import Ray
out, toys = Path(sys.argv[1]), Path(sys.argv[2])
names = ("engine_toys:server", "engine_toys:client")
Ray().run(Job(out / "config.json", out, False, sites=2, components=names, extra=(toys,)))
"""


@pytest.fixture
def mark(monkeypatch):
    """A place for temporary files that everything started from here inherits; nothing that has it may be left."""
    folder = Path("/tmp") / uuid.uuid4().hex[:6]  # short enough for Ray
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    left = started(folder)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def started(mark):
    """The command lines of the processes that have ``mark`` in their environment, or work below it: Ray's agents write
    their titles over their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit():
                continue
            inherited = f"TMPDIR={mark}".encode() in (entry / "environ").read_bytes()
            if inherited or (entry / "cwd").readlink().is_relative_to(mark):
                found.append((entry / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


def wait_for(mark, names):
    """Wait until each of ``names`` (patterns) has been seen running; which of them comes last, and when an agent
    takes its title, is up to Ray."""

    def all_run() -> bool:
        running = started(mark)
        return all(any(re.search(name, line) for line in running) for name in names)

    wait_until(f"all of {names} run", all_run)


def make_job(out, **plan):
    (out / "config.json").write_text(json.dumps({"sites": 3, **plan}))
    names = ("engine_toys:server", "engine_toys:client")
    return Job(out / "config.json", out, False, sites=3, workers=2, components=names, extra=(TOYS,))


def test_a_run_beside_foreign_packages_of_the_same_name(tmp_path, monkeypatch, capfd, mark):
    for package in ("client", "server", "strategies", "fedrecon_core"):
        (tmp_path / "foreign" / package).mkdir(parents=True)
        (tmp_path / "foreign" / package / "__init__.py").write_text("raise RuntimeError('a foreign package')")
    monkeypatch.chdir(tmp_path / "foreign")
    out = tmp_path / "a run with 'quotes' and ümlauts"
    out.mkdir()
    ENGINES.get("ray")().run(make_job(out, rounds=2))
    first, second = json.loads((out / "result.json").read_text())["replies"]
    assert [reply["n"] for reply in first + second] == [1, 1, 1, 2, 2, 2]
    assert len({reply["pid"] for reply in first + second}) == 2
    assert {reply["hash"] for reply in second} == {code_hash()}
    assert not any(str(ROOT) in reply["file"] for reply in second)  # the bundle's, not the one of this checkout
    assert "Starting Flower Simulation" in (out / "engine.log").read_text()
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(("code", "kind"), [pytest.param(1, RunError, marks=pytest.mark.slow), (2, UsageError)])
def test_a_server_that_raises_fails_the_run_with_its_own_words_and_code(tmp_path, code, kind, mark):
    with pytest.raises(kind, match=r"^the quorum was not reached$") as raised:
        Ray().run(make_job(tmp_path, **{"raise": True, "exit_code": code}))
    assert raised.value.exit_code == code


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, number, mark):
    (tmp_path / "config.json").write_text(json.dumps({"sites": 2, "sleep": 300}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(TOYS)]
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(
            mark, {"flower-superlink", "flwr-simulation", "gcs_server", "raylet", "ray::DashboardAgent|dashboard/agent"}
        )
        run.send_signal(number)
        _, errors = run.communicate(timeout=PATIENCE)
    finally:  # a run that is asked to end takes along what it started, so a failed test leaves nothing either
        run.terminate()
        run.wait(timeout=PATIENCE)
    assert run.returncode != 0
    assert ("KeyboardInterrupt" in errors) == (number is signal.SIGINT)


@pytest.fixture
def cluster(mark):
    """The address of a Ray cluster of two nodes on this machine."""
    with two_nodes(mark / f"ray-{uuid.uuid4().hex[:6]}", lambda: started(mark)) as address:
        yield address


@pytest.mark.slow
def test_a_cluster_that_is_there_runs_the_sites_and_stays(tmp_path, cluster):
    for turn in ("first", "second"):
        (tmp_path / turn).mkdir()
        Ray().run(replace(make_job(tmp_path / turn, rounds=2), ray_address=cluster))
        first, second = json.loads((tmp_path / turn / "result.json").read_text())["replies"]
        assert [reply["n"] for reply in first + second] == [1, 1, 1, 2, 2, 2]
        assert len({reply["pid"] for reply in first + second}) == 2  # an actor on each node


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path, mark, address):
    with pytest.raises(UsageError, match=rf"engine\.ray_address: expected HOST:PORT .*, found {address}: "):
        Ray().run(replace(make_job(tmp_path), ray_address=address))

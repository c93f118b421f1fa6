"""The ray engine, run for real with a small app pair: results, failures, and that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from fedrecon_core.errors import RunError
from server.engines.base import ENGINES, Job
from server.engines.ray import Ray
from strategies.code_hash import code_hash

pytestmark = pytest.mark.simulation

ROOT = Path(__file__).resolve().parents[2]
TOYS = ROOT / "tests" / "toys" / "engine_toys.py"
SCRIPT = """
import sys
from pathlib import Path
from server.engines.base import Job
from server.engines.ray import Ray
out, toys = Path(sys.argv[1]), Path(sys.argv[2])
names = ("engine_toys:server", "engine_toys:client")
Ray().run(Job(out / "config.json", out, False, sites=2, components=names, extra=(toys,)))
"""


@pytest.fixture
def mark(monkeypatch):
    """A variable that everything started from here inherits; nothing that has it may be left at the end."""
    value = uuid.uuid4().hex
    monkeypatch.setenv("ENGINE_TEST", value)
    yield f"ENGINE_TEST={value}".encode()
    assert started(f"ENGINE_TEST={value}".encode()) == []


def started(mark):
    """The command lines of the processes that have ``mark`` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


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


def test_a_server_that_raises_fails_the_run_with_its_own_words(tmp_path, mark):
    with pytest.raises(RunError, match=r"^the quorum was not reached$"):
        Ray().run(make_job(tmp_path, **{"raise": True}))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, number, mark):
    (tmp_path / "config.json").write_text(json.dumps({"sites": 2, "sleep": 300}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(TOYS)]
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not any("ray::" in line for line in started(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    names = "\n".join(started(mark))
    assert all(name in names for name in ("flower-superlink", "flwr-simulation", "gcs_server", "raylet", "ray::"))
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert ("KeyboardInterrupt" in errors) == (number is signal.SIGINT)

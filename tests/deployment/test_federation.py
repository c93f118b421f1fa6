"""A real federation with TLS and authentication: the bytes of the simulation, and three faults that a run survives."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import application
from server.engines.inprocess import InProcess
from server.runs.setup import create_run
from server.training.checkpoints import newest_round
from tests.deployment.federation import Cable, Federation, wait_until
from tests.helpers.runs import job_of, write

pytestmark = pytest.mark.deployment

ROUNDS = 3
PROFILE = [
    {"sites": 1, "modalities": ["m0", "m1"]},
    {"sites": 1, "modalities": ["m1", "m2"]},
    {"sites": 1, "modalities": ["m0", "m1", "m2"]},
]
CONFIG = {
    "name": "polydigits",
    "rounds": ROUNDS,
    "data": {"name": "polydigits", "modalities": 3, "tuples": 1},
    "sites": {"count": 3, "timeout": 90, "wait": 90},
    "missing": {
        "train": {"level": "profile", "profile": PROFILE},
        "validation": {"level": "sample", "rate": 0.5},
        "test": {"level": "sample", "rate": 0.5},
    },
    "recovery": {"name": "fedrecon", "warmup_rounds": 1},
    "evaluate": {"every": ROUNDS},
}
SITES = ["site-0000", "site-0001", "site-0002"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("sites")
    arguments = ["data", "split", str(write(base, CONFIG)), "--out", str(base / "sites")]
    assert CliRunner().invoke(application, arguments, catch_exceptions=False).exit_code == 0
    return base / "sites"


@pytest.fixture(scope="module")
def expected(folders, tmp_path_factory) -> str:
    """The parameters of the in-process engine over the same sites."""
    run = create_run(folders / "federation.yaml", out=tmp_path_factory.mktemp("inprocess") / "run")
    InProcess().run(job_of(run))
    return result(run.directory.path)["parameters_sha256"]


@pytest.fixture(scope="module")
def federation(folders, tmp_path_factory):
    found = Federation(tmp_path_factory.mktemp("net"), {name: folders / name for name in SITES})
    try:
        yield found.start()
    finally:
        found.close()


def result(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text())


def lines(directory: Path, name: str) -> list[dict]:
    path = directory / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def in_round(directory: Path, round_: int) -> bool:
    """Whether all rounds before ``round_`` are over; their own checkpoints may be gone by then."""
    return newest_round(directory / "checkpoints") >= round_ - 1


def end_of(command, seconds: float) -> str:
    """What the command said, once it has ended."""
    said, _ = command.communicate(timeout=seconds)
    print(said)
    return said


class Heard:
    """What a command says, read while it runs."""

    def __init__(self, command: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        threading.Thread(target=lambda: self._lines.extend(iter(command.stdout.readline, "")), daemon=True).start()

    def text(self) -> str:
        return "".join(self._lines)


def test_three_sites_reach_the_bytes_of_the_simulation(federation, folders, expected, tmp_path):
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"))
    said = end_of(command, 240)
    assert command.returncode == 0
    assert result(tmp_path / "run")["parameters_sha256"] == expected
    assert f"run directory {tmp_path / 'run'}" in said
    assert "round 3/3" in said
    assert "finished:completed" in federation.command("runs", "--superlink", "hospitals")


def test_the_run_goes_on_without_its_command_until_it_is_stopped(federation, folders, tmp_path):
    cable = Cable(federation.port)
    federation.connect("far", cable.port)
    # on a busy machine three rounds may be over before the run is stopped
    settings = ["--out", str(tmp_path / "run"), "--set", "rounds=1000"]
    command = federation.run(str(folders / "federation.yaml"), *settings, superlink="far")
    heard = Heard(command)
    wait_until("the run has begun", (tmp_path / "run" / "config.yaml").exists, 180)
    cable.cut()
    wait_until("the command misses the SuperLink", lambda: "lost the SuperLink (" in heard.text(), 60)
    cable.mend()
    wait_until("the command is back", lambda: "the SuperLink answers again" in heard.text(), 60)
    command.send_signal(signal.SIGINT)
    assert command.wait(30) == 130
    [run_id] = re.findall(r"submitted as run (\d+)", heard.text())
    wait_until("its last words", lambda: f"the run goes on. Watch it: fedrecon follow {run_id}" in heard.text(), 10)
    try:
        wait_until("round 1 is over", lambda: in_round(tmp_path / "run", 2), 300)
    finally:  # or it would go on beside all tests that follow
        federation.command("stop", run_id, "--superlink", "hospitals")
    assert "finished:stopped" in federation.command("runs", "--superlink", "hospitals")
    with pytest.raises(AssertionError, match=f"run {run_id} was stopped"):
        federation.command("follow", run_id, "--superlink", "hospitals")


def test_a_site_dies_in_mid_round_and_comes_back(federation, folders, tmp_path):
    settings = ["--set", "sites.min=2", "--set", "rounds=4", "--set", "evaluate.every=4"]
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"), *settings)
    wait_until("round 2", lambda: in_round(tmp_path / "run", 2), 120)
    time.sleep(1)
    federation.kill_group("site-0001")
    wait_until("round 2 is over", lambda: in_round(tmp_path / "run", 3), 150)
    federation.start_site("site-0001")
    said = end_of(command, 300)
    assert command.returncode == 0
    assert "round 2: 2 of 3 sites answered; site-0001: " in said
    statuses = {
        line["round"]: line["status"] for line in lines(tmp_path / "run", "sites.jsonl") if line["site"] == "site-0001"
    }
    assert statuses[1] == "ok"
    assert statuses[2] == "failed"
    assert "ok" in [statuses.get(round_) for round_ in (3, 4)]


def test_a_killed_server_app_is_resumed(federation, folders, expected, tmp_path):
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"))
    wait_until("round 2", lambda: in_round(tmp_path / "run", 2), 120)
    time.sleep(1)
    for process in federation.server_apps():
        os.kill(process, signal.SIGKILL)
    end_of(command, 200)
    assert command.returncode == 1
    resumed = federation.run("--resume", "--out", str(tmp_path / "run"))
    end_of(resumed, 240)
    assert resumed.returncode == 0
    assert result(tmp_path / "run")["parameters_sha256"] == expected


def test_a_killed_superlink_is_restarted_and_the_run_resumed(federation, folders, expected, tmp_path):
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"))
    wait_until("round 2", lambda: in_round(tmp_path / "run", 2), 120)
    time.sleep(1)
    federation.kill("superlink")
    time.sleep(5)
    federation.start_superlink()
    end_of(command, 300)
    if command.returncode:
        command = federation.run("--resume", "--out", str(tmp_path / "run"))
        end_of(command, 240)
    assert command.returncode == 0
    assert result(tmp_path / "run")["parameters_sha256"] == expected

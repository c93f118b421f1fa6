"""A real federation with TLS and authentication: the bytes of the simulation, and three faults that a run survives."""

import os
import re
import signal

import pytest

from tests.deployment.federation import (
    Cable,
    LiveOutput,
    in_round,
    output_of,
)
from tests.helpers import runs
from tests.helpers.processes import PATIENCE, wait_until

pytestmark = pytest.mark.deployment


def test_a_site_dies_in_mid_round_and_comes_back(federation, folders, tmp_path):
    settings = ["--set", "sites.min=2", "--set", "rounds=4", "--set", "evaluate.every=4"]
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"), *settings)
    wait_until("round 2", lambda: in_round(tmp_path / "run", 2), command)
    wait_until("the site has a message of round 2", lambda: federation.works("site-0001"), command)
    federation.kill_group("site-0001")
    wait_until("round 2 is over", lambda: in_round(tmp_path / "run", 3), command)
    federation.start_site("site-0001")
    output = output_of(command)
    assert command.returncode == 0
    assert "round 2: 2 of 3 sites answered; site-0001: " in output
    found = runs.lines(tmp_path / "run", "sites.jsonl")
    statuses = {line["round"]: line["status"] for line in found if line["site"] == "site-0001"}
    assert statuses[1] == "ok"
    assert statuses[2] == "failed"
    assert "ok" in [statuses.get(round_) for round_ in (3, 4)]


def test_a_killed_server_app_is_resumed_to_the_bytes_of_the_simulation(federation, folders, expected, tmp_path):
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"))
    wait_until("round 2", lambda: in_round(tmp_path / "run", 2), command)
    for process in federation.server_apps():
        os.kill(process, signal.SIGKILL)
    output_of(command)
    assert command.returncode == 1
    resumed = federation.run("--resume", "--out", str(tmp_path / "run"))
    output = output_of(resumed)
    assert resumed.returncode == 0
    assert runs.result(tmp_path / "run")["parameters_sha256"] == expected
    assert "round 3/3" in output
    assert "finished:completed" in federation.command("runs", "--superlink", "hospitals")
    assert "Learning curves" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")  # by the ServerApp


@pytest.mark.slow
def test_three_sites_reach_the_bytes_of_the_simulation(federation, folders, expected, tmp_path):
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"))
    output = output_of(command)
    assert command.returncode == 0
    assert runs.result(tmp_path / "run")["parameters_sha256"] == expected
    assert f"run directory {tmp_path / 'run'}" in output
    assert "round 3/3" in output
    assert "finished:completed" in federation.command("runs", "--superlink", "hospitals")


@pytest.mark.slow
def test_the_run_goes_on_without_its_command_until_it_is_stopped(federation, folders, tmp_path):
    cable = Cable(federation.port)
    federation.connect("far", cable.port)
    # on a busy machine three rounds may be over before the run is stopped
    settings = ["--out", str(tmp_path / "run"), "--set", "rounds=1000"]
    command = federation.run(str(folders / "federation.yaml"), *settings, superlink="far")
    output = LiveOutput(command)
    wait_until("the run has begun", (tmp_path / "run" / "config.yaml").exists, command)
    cable.cut()
    output.wait_for("lost the SuperLink (")
    cable.mend()
    output.wait_for("the SuperLink answers again")
    command.send_signal(signal.SIGINT)
    assert command.wait(PATIENCE) == 130
    [run_id] = re.findall(r"submitted as run (\d+)", output.to_the_end())
    try:
        assert f"the run continues. Follow it: fedrecon follow {run_id}" in output.text()
        wait_until("round 1 is over", lambda: in_round(tmp_path / "run", 2))
    finally:  # otherwise it would run during all later tests
        federation.command("stop", run_id, "--superlink", "hospitals")
    assert "finished:stopped" in federation.command("runs", "--superlink", "hospitals")
    with pytest.raises(AssertionError, match=f"run {run_id} was stopped"):
        federation.command("follow", run_id, "--superlink", "hospitals")


@pytest.mark.slow
def test_a_killed_superlink_is_restarted_and_the_run_resumed(federation, folders, expected, tmp_path):
    command = federation.run(str(folders / "federation.yaml"), "--out", str(tmp_path / "run"))
    output = LiveOutput(command)
    wait_until("round 2", lambda: in_round(tmp_path / "run", 2), command)
    federation.kill("superlink")
    output.wait_for("lost the SuperLink (")
    federation.start_superlink()
    command.wait(2 * PATIENCE)
    print(output.to_the_end())
    if command.returncode:
        command = federation.run("--resume", "--out", str(tmp_path / "run"))
        output_of(command)
    assert command.returncode == 0
    assert runs.result(tmp_path / "run")["parameters_sha256"] == expected

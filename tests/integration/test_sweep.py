"""``fedrecon sweep`` as a command: the numbers of single runs, whichever process is killed, and no process left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
import yaml

from server.engines import processes
from server.runs.directory import newest_round
from server.sweep.record import read_sweep
from tests.helpers.processes import PATIENCE, wait_until
from tests.helpers.sweeps import BASE, write_sweep

pytestmark = pytest.mark.faults

PROGRAM = Path(sys.executable).parent / "fedrecon"
LONG = {**BASE, "rounds": 12}


def start(folder: Path, *arguments: object, token: str = "", **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **(processes.environment(token) if token else {}), **variables}
    command = [PROGRAM, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)


def call(folder: Path, *arguments: object) -> tuple[int, str, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def results(folder: Path) -> dict[str, dict]:
    """Labels of a trial -> its result and metrics without what a resume may change: wall-clock fields, and the size of
    all messages, since a resumed run asks the sites for their descriptions again."""
    found = {}
    for trial in read_sweep(folder).trials:
        lines = [json.loads(line) for line in (trial.directory / "metrics.jsonl").read_text().splitlines()]
        result = json.loads((trial.directory / "result.json").read_text())
        plain = [
            {k: v for k, v in one.items() if not k.endswith(("_seconds", "wire_bytes"))} for one in (result, *lines)
        ]
        found["-".join(trial.labels.values())] = plain
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed sweep of four trials, and the output of the command."""
    folder = tmp_path_factory.mktemp("whole")
    write_sweep(folder, LONG)
    code, out, err = call(folder, "sweep", "sweep.yaml", "--workers", 2)
    assert (code, err) == (0, ""), (out, err)
    return folder, out


def test_every_trial_equals_a_run_with_the_same_config(whole, tmp_path):
    folder, out = whole
    trials = folder / "runs" / "tiny"
    assert out.endswith(f"all 4 trials are complete in {trials}\n")
    assert [trial.status for trial in read_sweep(trials).trials] == ["complete"] * 4
    call(folder, "run", "base.yaml", "--set", "recovery.name=zero", "--set", "seed=1", "--out", tmp_path / "run")
    alone = json.loads((tmp_path / "run" / "result.json").read_text())
    assert results(trials)["zero-1"][0]["parameters_sha256"] == alone["parameters_sha256"]
    (trial,) = trials.glob("cells/zero-seed1-*")
    left = {path.name for path in trial.iterdir()}
    assert {"config.yaml", "manifest.json", "model", "predictions.parquet", "report.html", "cell.log"} <= left
    assert not left & {"checkpoints", "sites"}
    assert "round 12/12" in (trial / "cell.log").read_text()


def test_table_has_differences_and_is_reproducible(whole):
    folder, _ = whole
    trials = folder / "runs" / "tiny"
    chosen = ("--set", "baseline={recovery: mask}")
    code, out, err = call(folder, "table", trials, *chosen)
    assert (code, err) == (0, "")
    scores = [result["test"]["uar"] for name, (result, *_) in results(trials).items() if name.startswith("mask-")]
    assert f"| mask | **{100 * sum(scores) / 2:.1f} ± " in out
    (difference,) = [line for line in out.splitlines() if line.startswith("| zero |") and " to " in line]
    assert difference.split(" | ")[-2] == "2"  # seeds; the test groups are last
    assert call(folder, "table", trials, *chosen)[1] == out


def test_repeated_command_has_nothing_to_do(whole):
    folder, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/tiny/cells/*/*")}
    code, out, err = call(folder, "sweep", "sweep.yaml")
    assert (code, err) == (0, "")
    assert "sweep tiny: 4 trials, 4 complete" in out
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/tiny/cells/*/*")} == before


def test_killed_sweep_leaves_no_process_and_resumes_to_the_same_numbers(whole, tmp_path):
    """The processes of trials must notice that the killed command has ended, and end themselves."""
    token = uuid.uuid4().hex
    write_sweep(tmp_path, LONG)
    process = start(tmp_path, "sweep", "sweep.yaml", "--workers", 2, token=token)
    trials = tmp_path / "runs" / "tiny"
    wait_until(
        "one trial is complete, another has begun",
        lambda: any(trials.glob("cells/*/result.json")) and begun(trials),
        process,
    )
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert processes.wait_until_gone(token, PATIENCE), processes.marked(token)
    states = [trial.status for trial in read_sweep(trials).trials]
    assert "complete" in states
    assert "unfinished" in states, states
    moved = tmp_path / "moved"  # as on another machine, with another data folder
    trials.rename(moved)
    elsewhere(moved)
    code, out, err = call(tmp_path, "sweep", "sweep.yaml", "--out", "moved", "--workers", 2)
    assert (code, err) == (0, ""), (out, err)
    assert f"sweep tiny: 4 trials, {states.count('complete')} complete" in out
    assert "(after round " in out
    assert results(moved) == results(whole[0] / "runs" / "tiny")


def begun(trials: Path) -> bool:
    """Whether some trial still has several rounds left to be killed in."""
    rounds = [newest_round(path) for path in trials.glob("cells/*/checkpoints")]
    return any(0 < newest < LONG["rounds"] - 4 for newest in rounds)


def elsewhere(trials: Path) -> None:
    """Change every config to a data folder that does not exist here and to another engine."""
    for path in trials.glob("cells/*/config.yaml"):
        raw = yaml.safe_load(path.read_text())
        raw["data"]["root"], raw["engine"]["workers"] = "/data/of/another/machine", 7
        path.write_text(yaml.safe_dump(raw))


@pytest.fixture
def failing(tmp_path):
    """A sweep with a trial that fails during its rounds, between two valid ones."""
    axes = {
        "rate": {
            "some": {},
            "odd": {"local.task.lr": 1e30},
            "more": {"missing.train.rate": 0.5},
        }
    }
    write_sweep(tmp_path, axes=axes)
    return tmp_path


def test_failed_trial_is_reported_stops_no_other_and_is_retried(failing):
    code, out, err = call(failing, "sweep", "sweep.yaml", "--workers", 1)
    assert code == 1
    assert err == "fedrecon: 1 of 3 trials failed; the same command tries them again\n"
    (message,) = [line for line in out.splitlines() if line.startswith("failed: rate=odd: ")]
    assert "contains NaN or infinity" in message
    log = Path(message.rpartition("; see ")[2])
    assert "contains NaN or infinity" in log.read_text()
    states = {trial.labels["rate"]: trial.status for trial in read_sweep(failing / "runs" / "tiny").trials}
    assert states == {"some": "complete", "odd": "failed", "more": "complete"}
    assert f"report {failing / 'runs' / 'tiny' / 'report.html'}\n" in out
    assert "1 trial failed" in (failing / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    code, out, _ = call(failing, "sweep", "sweep.yaml", "--only", "rate=odd")
    assert code == 1
    assert "started  rate=odd" in out
    code, out, err = call(failing, "sweep", "sweep.yaml", "--only", "rate=some,more")
    assert (code, err) == (0, "")
    assert out.endswith(f"all 2 trials are complete in {failing / 'runs' / 'tiny'}\n")


def test_trial_with_a_killed_process_fails_with_its_reason(tmp_path):
    write_sweep(tmp_path, {**BASE, "rounds": 500}, axes={"length": {"long": {}, "short": {"rounds": 2}}})
    token = uuid.uuid4().hex
    process = start(tmp_path, "sweep", "sweep.yaml", "--workers", 2, token=token)
    wait_until("round 1 of a trial", lambda: any(tmp_path.glob("runs/tiny/cells/long-*/checkpoints/round-*")), process)
    wait_until("the end of the other", lambda: any(tmp_path.glob("runs/tiny/cells/short-*/result.json")), process)
    (lock,) = tmp_path.glob("runs/tiny/cells/long-*/run.lock")
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "failed: length=long: its process was ended by signal SIGKILL" in out
    assert "1 of 2 trials failed" in err
    assert processes.wait_until_gone(token, PATIENCE)
    states = {trial.labels["length"]: trial.status for trial in read_sweep(tmp_path / "runs" / "tiny").trials}
    assert states == {"long": "failed", "short": "complete"}
    assert "its process was ended by signal SIGKILL" in (tmp_path / "runs" / "tiny" / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_all_trials_and_explains_how_to_resume(tmp_path, number):
    write_sweep(tmp_path, {**BASE, "rounds": 500})
    token = uuid.uuid4().hex
    process = start(tmp_path, "sweep", "sweep.yaml", "--workers", 2, token=token)
    wait_until("two cells train", lambda: len(list(tmp_path.glob("runs/tiny/cells/*/checkpoints"))) == 2, process)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal sends it: to the whole process group
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == "fedrecon: interrupted; 0 of 4 trials complete; the same command resumes\n"
    assert processes.wait_until_gone(token, PATIENCE)
    assert {trial.status for trial in read_sweep(tmp_path / "runs" / "tiny").trials} == {"unfinished", "missing"}


def test_a_dry_run_writes_nothing_and_estimates_from_the_first_trial(tmp_path):
    write_sweep(tmp_path)
    code, out, err = call(tmp_path, "sweep", "sweep.yaml", "--dry-run", "--workers", 2)
    assert (code, err) == (0, "")
    assert out.count("missing") == 4
    assert "4 trials left, about 0:0" in out
    assert "estimated from 2 rounds of recovery=mask, seed=0, run just now" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "sweep.yaml"]


def test_an_interrupt_of_a_dry_run_leaves_nothing(tmp_path):
    write_sweep(tmp_path, {**BASE, "local": {"task": {"epochs": 10_000}}})
    token = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as temporary:  # short enough a path for the fork server's socket
        process = start(tmp_path, "sweep", "sweep.yaml", "--dry-run", token=token, TMPDIR=temporary)
        wait_until("the trial run", lambda: any(Path(temporary).glob("fedrecon-*/manifest.json")), process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "fedrecon: interrupted; nothing was written\n")
        assert processes.wait_until_gone(token, PATIENCE)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "sweep.yaml"]
        assert not list(Path(temporary).glob("fedrecon-*"))


def test_changed_sweep_reports_leftover_directories_and_other_code(whole, tmp_path):
    trials = tmp_path / "runs" / "tiny"
    shutil.copytree(whole[0] / "runs" / "tiny", trials)
    (manifest,) = trials.glob("cells/mask-seed0-*/manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "code_sha256": "0" * 64}))
    write_sweep(tmp_path, LONG, axes={"recovery": ["mask"], "seed": [0]})
    code, out, err = call(tmp_path, "sweep", "sweep.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "3 run directories belong to no trial of this sweep and will not be changed: mask-seed1-" in out
    assert "1 complete trial was computed by other code (0000000000, now " in out
    assert "nothing is left to run" in out


def test_invalid_sweep_fails_in_one_line_before_anything_runs(tmp_path):
    write_sweep(tmp_path, axes={"recovery": ["mask", "maks"]})
    code, out, err = call(tmp_path, "sweep", "sweep.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("fedrecon: trial recovery=maks: recovery: unknown recovery 'maks'")
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_missing_data_are_reported_before_any_trial_starts(tmp_path, option):
    axes = {"data": {"digits": {}, "har": {"data": {"name": "uci_har"}}}, "seed": [0, 1]}
    write_sweep(tmp_path, axes=axes)
    code, out, err = call(tmp_path, "sweep", "sweep.yaml", *option)
    assert (code, out) == (2, "")
    assert err.startswith("fedrecon: the 2 trials with data=har: data.root: expected a folder prepared for 'uci_har'")
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("runs/tiny/cells/*"))
    code, out, err = call(tmp_path, "sweep", "sweep.yaml", "--only", "data=digits", *option)
    assert (code, err) == (0, ""), out

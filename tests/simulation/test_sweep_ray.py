"""A sweep on a Ray cluster of two nodes on this machine: the same bytes, and the cluster stays."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import ray
import torch
import yaml

from server.engines import processes
from server.runs.setup import load_config
from server.sweep.ray_executor import RayExecutor, pack, unpack
from server.sweep.record import read_sweep
from tests.helpers.processes import PATIENCE, kill_head, two_nodes
from tests.helpers.sweeps import BASE, write_sweep

pytestmark = pytest.mark.simulation

PROGRAMS = Path(sys.executable).parent
PARAMETERS = {"rate": {"some": {}, "odd": {"local.task.lr": 1e30}}, "seed": [0, 1]}


@pytest.fixture
def cluster(request):
    """The address of a Ray cluster of two nodes, started with the flags that the test gives; nothing of it may be
    left."""
    home = Path("/tmp") / f"sw{uuid.uuid4().hex[:6]}"
    with two_nodes(home, lambda: processes.marked(home.name), *getattr(request, "param", ())) as address:
        yield address


def sweep(folder, *arguments):
    command = [PROGRAMS / "fedrecon", "sweep", "sweep.yaml", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def results(folder):
    found = {}
    for trial in read_sweep(folder).trials:
        result = json.loads((trial.directory / "result.json").read_text())
        found["-".join(trial.labels.values())] = result.get("parameters_sha256") or result["error"]
    return found


def test_trials_run_as_tasks_of_a_cluster_with_the_same_results(cluster, tmp_path):
    write_sweep(tmp_path, axes=PARAMETERS)
    code, out, err = sweep(tmp_path, "--ray-address", cluster)
    assert code == 1, (out, err)
    assert "2 of 4 trials failed" in err
    assert out.count("failed: rate=odd, seed=") == 2
    away = tmp_path / "runs" / "tiny"
    code, out, _ = sweep(tmp_path, "--out", "here")
    assert code == 1, out
    assert results(away) == results(tmp_path / "here")
    (trial,) = away.glob("cells/some-seed0-*")
    left = {path.name for path in trial.iterdir()}
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "model", "report.html", "cell.log"} <= left
    assert not left & {"checkpoints", "sites", "run.lock"}
    assert "round 2/2" in (trial / "cell.log").read_text()
    code, out, _ = sweep(
        tmp_path, "--ray-address", cluster, "--only", "rate=some"
    )  # the cluster is there, and all is done
    assert code == 0
    assert "2 trials, 2 complete" in out
    if not torch.cuda.is_available():  # and none is shown to a node that starts
        one = ("--only", "rate=some", "--only", "seed=0")
        code, out, _ = sweep(tmp_path, "--ray-address", cluster, *one, "--set", "device=cuda", "--out", "gpu")
        assert code == 1, out
        assert "failed: rate=some, seed=0: device: 'cuda' needs a GPU, and the Ray cluster has none" in out


@pytest.mark.faults
@pytest.mark.slow
def test_a_lost_head_ends_the_sweep_with_one_clear_line_and_fails_the_running_trials(tmp_path):
    home = Path("/tmp") / f"sw{uuid.uuid4().hex[:6]}"
    write_sweep(tmp_path, axes={"seed": [0, 1, 2]}, set={"rounds": 5000})
    with two_nodes(home, lambda: processes.marked(home.name)) as address:
        command = [PROGRAMS / "fedrecon", "sweep", "sweep.yaml", "--ray-address", address]
        running = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            started = 0
            while started < 2:
                line = running.stdout.readline()
                assert line, running.stderr.read()
                started += line.startswith("started")
            kill_head(home)
            out, err = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
    lost = f"the Ray cluster at {address} is lost: its head has not answered for 20 seconds"
    assert running.returncode == 1, (out, err)
    assert err.splitlines()[-1] == f"fedrecon: {lost}; 0 of 3 trials complete; the same command resumes"
    states = [(trial.status.value, trial.directory) for trial in read_sweep(tmp_path / "runs" / "tiny").trials]
    assert [state for state, _ in states] == ["failed", "failed", "missing"]
    for _, directory in states[:2]:
        reason = json.loads((directory / "result.json").read_text())["error"]
        assert reason == lost or reason.startswith("its Ray task was lost: ")
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_trials_with_a_hint_how_to_resume(cluster, tmp_path, number):
    write_sweep(tmp_path, axes={"seed": [0]}, set={"rounds": 5000})
    command = [PROGRAMS / "fedrecon", "sweep", "sweep.yaml", "--ray-address", cluster]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout.readline()
        while not running.stdout.readline().startswith("started"):
            assert running.poll() is None
        running.send_signal(number)
        _, err = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert err.splitlines()[-1] == "fedrecon: interrupted; 0 of 1 trial complete; the same command resumes"


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [("--num-gpus=1",)], indirect=True)
def test_only_a_trial_on_cuda_gets_a_gpu(cluster, tmp_path):
    """Ray accepts any number of GPUs of a node. The environment of a task shows which of them PyTorch would see."""

    def visible_devices(data):
        path = tmp_path / "node" / uuid.uuid4().hex
        unpack(data, path)
        (path / "result.json").write_text(json.dumps({"error": f"sees '{os.environ.get('CUDA_VISIBLE_DEVICES')}'"}))
        return pack(path)

    executor = RayExecutor(cluster, 4)
    executor._task = ray.remote(num_cpus=1, max_calls=1)(visible_devices)
    try:
        for device in ("cuda", "auto", "cpu"):
            path = tmp_path / "cells" / device
            path.mkdir(parents=True)
            (path / "config.yaml").write_text(yaml.safe_dump({**BASE, "device": device}))
            executor.start(path, load_config(path / "config.yaml"))
        seen = {}
        while len(seen) < 3:
            seen.update({ended.path.name: ended.reason for ended in executor.wait(10.0)})
    finally:
        executor.close()
    assert seen == {"cuda": "sees '0'", "auto": "sees ''", "cpu": "sees ''"}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_missing_cluster_is_reported_at_once(tmp_path, address):
    write_sweep(tmp_path)
    code, _, err = sweep(tmp_path, "--ray-address", address)
    assert code == 2
    assert err.startswith(
        "fedrecon: --ray-address: expected HOST:PORT of a Ray cluster's head (`ray start --head` prin"
    )
    assert f"found {address}: " in err

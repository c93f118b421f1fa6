"""A sweep on a Ray cluster of two nodes on this machine: the same bytes, and the cluster stays."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import ray
import torch
import yaml

from server.engines import processes
from server.sweep.on_ray import OnRay
from server.sweep.packed import pack, unpack
from server.sweep.record import read_sweep
from tests.toys.ray_cluster import two_nodes
from tests.toys.sweeps import BASE, write_sweep

pytestmark = pytest.mark.simulation

PROGRAMS = Path(sys.executable).parent
AXES = {"rate": {"some": {}, "odd": {"local.task.lr": 1e30}}, "seed": [0, 1]}


@pytest.fixture
def cluster(request):
    """The address of a Ray cluster of two nodes, started with the flags that the test gives; nothing of it may be
    left."""
    home = Path("/tmp") / f"sw{uuid.uuid4().hex[:6]}"
    with two_nodes(home, lambda: processes.marked(home.name), *getattr(request, "param", ())) as address:
        yield address


def sweep(folder, *arguments):
    command = [PROGRAMS / "fedrecon", "sweep", "sweep.yaml", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=400)
    return done.returncode, done.stdout, done.stderr


def results(folder):
    found = {}
    for cell in read_sweep(folder).cells:
        result = json.loads((cell.directory / "result.json").read_text())
        found["-".join(cell.labels.values())] = result.get("parameters_sha256") or result["error"]
    return found


def test_cells_are_tasks_of_a_cluster_and_come_back_as_they_are_made_here(cluster, tmp_path):
    write_sweep(tmp_path, axes=AXES)
    code, out, err = sweep(tmp_path, "--ray-address", cluster)
    assert code == 1, (out, err)
    assert "2 of 4 cells failed" in err
    assert out.count("failed: rate=odd, seed=") == 2
    away = tmp_path / "runs" / "tiny"
    code, out, _ = sweep(tmp_path, "--out", "here")
    assert code == 1, out
    assert results(away) == results(tmp_path / "here")
    (cell,) = away.glob("cells/some-seed0-*")
    left = {path.name for path in cell.iterdir()}
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "model", "report.html", "cell.log"} <= left
    assert not left & {"checkpoints", "sites", "run.lock"}
    assert "round 2/2" in (cell / "cell.log").read_text()
    code, out, _ = sweep(
        tmp_path, "--ray-address", cluster, "--only", "rate=some"
    )  # the cluster is there, and all is done
    assert code == 0
    assert "2 cells, 2 complete" in out
    if not torch.cuda.is_available():  # and none is shown to a node that starts
        one = ("--only", "rate=some", "--only", "seed=0")
        code, out, _ = sweep(tmp_path, "--ray-address", cluster, *one, "--set", "device=cuda", "--out", "gpu")
        assert code == 1, out
        assert "failed: rate=some, seed=0: device: 'cuda' needs a GPU, and the Ray cluster has none" in out


@pytest.mark.parametrize("cluster", [("--num-gpus=1",)], indirect=True)
def test_only_a_cell_on_cuda_is_shown_a_gpu(cluster, tmp_path):
    """Ray believes what it is told of GPUs; what it would show to PyTorch is in the task's environment."""

    def told(data):
        path = tmp_path / "node" / uuid.uuid4().hex
        unpack(data, path)
        (path / "result.json").write_text(json.dumps({"error": f"sees '{os.environ.get('CUDA_VISIBLE_DEVICES')}'"}))
        return pack(path)

    workers = OnRay(cluster, 4)
    workers._task = ray.remote(num_cpus=1, max_calls=1)(told)
    try:
        for device in ("cuda", "auto", "cpu"):
            path = tmp_path / "cells" / device
            path.mkdir(parents=True)
            (path / "config.yaml").write_text(yaml.safe_dump({**BASE, "device": device}))
            workers.start(path)
        seen = {}
        while len(seen) < 3:
            seen.update({ended.path.name: ended.reason for ended in workers.ended(10.0)})
    finally:
        workers.close()
    assert seen == {"cuda": "sees '0'", "auto": "sees ''", "cpu": "sees ''"}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path, address):
    write_sweep(tmp_path)
    code, _, err = sweep(tmp_path, "--ray-address", address)
    assert code == 2
    assert err.startswith(
        "fedrecon: --ray-address: expected HOST:PORT of a Ray cluster's head (`ray start --head` prin"
    )
    assert f"found {address}: " in err

"""How long a deployed site's process takes until it can train, beyond what PyTorch and Flower take to be imported."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon_core.preparation.simulated_sites import write_sites
from server.runs.setup import load_config
from tests.helpers.runs import node_configs

pytestmark = pytest.mark.benchmark

REPEATS = 7
LIMIT = 0.5
BARE = "import time; t = time.perf_counter(); import torch, flwr.clientapp; print(time.perf_counter() - t)"
READY = """
import time; t = time.perf_counter()
import torch, flwr.clientapp
import client.app
from flwr.app import Context, RecordDict
from client.deployed import DeployedSite
from strategies.messages import TrainInstruction
site = DeployedSite(Context(1, 1, {node}, RecordDict(), {{}}), TrainInstruction("", {config!r}, 1, "run"))
data, modules = site.data("train"), site.modules
print(time.perf_counter() - t)
"""


def seconds(code: str) -> float:
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_a_site_is_ready_soon(tmp_path):
    list(write_sites(load_config(Path("configs/deployment/simulation.yaml")), tmp_path / "sites"))
    config = load_config(tmp_path / "sites" / "federation.yaml", ["engine.name=deployment"])
    node = node_configs(tmp_path / "sites", tmp_path / "state")["site-0000"]
    ready = READY.format(node=json.dumps(node), config=config.model_dump_json())
    pairs = [(seconds(BARE), seconds(ready)) for _ in range(REPEATS)]
    beyond = statistics.median(ours - bare for bare, ours in pairs)
    bare = statistics.median(bare for bare, _ in pairs)
    print(f"\nimports of torch and flwr.clientapp {bare:.2f} s; ready {beyond:.2f} s after that (median of {REPEATS})")
    assert beyond <= LIMIT

"""Costs of sites: the start of a site's process, opening 10 GB of data, and rounds among up to 10,000 simulated sites.

Run with ``pytest -m benchmark -s tests/benchmarks/test_sites.py``. In the rounds, 50 of 100, 1,000 and 10,000 sites are
sampled, with four small samples each: the work of a round stays the same, so any growth is the cost of the sites that
are not sampled. Each number of sites is measured twice, in turn, and the better turn counts, because a busy machine
makes single rounds slow. Memory is the peak of the proportional set sizes of all processes together.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import yaml

from fedrecon_core.preparation.simulated_sites import write_sites
from server.runs.setup import load_config
from tests.helpers.folders import write_large_folder
from tests.helpers.raw_npz import write
from tests.helpers.runs import node_configs
from tests.integration.test_site_folders import GB, probe

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


def test_site_is_ready_within_half_a_second_after_imports(tmp_path):
    list(write_sites(load_config(Path("configs/deployment/simulation.yaml")), tmp_path / "sites"))
    config = load_config(tmp_path / "sites" / "federation.yaml", ["engine.name=deployment"])
    node = node_configs(tmp_path / "sites", tmp_path / "state")["site-0000"]
    ready = READY.format(node=json.dumps(node), config=config.model_dump_json())
    pairs = [(seconds(BARE), seconds(ready)) for _ in range(REPEATS)]
    beyond = statistics.median(ours - bare for bare, ours in pairs)
    bare = statistics.median(bare for bare, _ in pairs)
    print(f"\nimports of torch and flwr.clientapp {bare:.2f} s; ready {beyond:.2f} s after that (median of {REPEATS})")
    assert beyond <= LIMIT


# --- opening a large folder -------------------------------------------------------------------------------------------


def test_ten_gigabytes_open_within_a_tenth_of_a_second(tmp_path):
    write_large_folder(tmp_path / "site", 10 * GB)
    seconds = [probe(tmp_path / "site")["seconds"] for _ in range(7)]
    print(f"median {statistics.median(seconds) * 1000:.0f} ms of {sorted(round(s * 1000) for s in seconds)}")
    assert statistics.median(seconds) < 0.1


# --- many sites -------------------------------------------------------------------------------------------------------

SITES = (100, 1_000, 10_000)
SAMPLED, SAMPLES, HELD_OUT, CLASSES, WIDTH = 50, 4, 100, 4, 8
ROUNDS, WARM, TURNS = 20, 2, 2
LOOK_SECONDS, WEIGH_SECONDS = 0.005, 0.5
MOST_OF_STOCK = 0.6
MOST_START, MOST_ROUND, MOST_CLOSING, MOST_BYTES_A_SITE = 4.0, 1.5, 3.0, 16 * 1024
"""Upper bounds of the ratio between most and fewest sites, and of the bytes of memory per additional site."""
ROW = "{:>9,} | {:>13.2f} | {:>11.3f} | {:>7.2f} | {:>9.0f} | {:>5} | {:>8.2f}"
HEAD = "    sites | until round 1 |     a round | closing | memory MB | files | files MB"


@dataclass(frozen=True)
class Run:
    """Seconds until the manifest is there, of a steady round (median), and from the last round to the end; peak memory
    in MB; files that the run left, and their MB."""

    start: float
    round: float
    closing: float
    memory: float
    files: int
    written: float


def data(folder: Path, sites: int) -> Path:
    """Write samples of two vectors with a mean per class; return the path of the description."""
    draw, count = np.random.default_rng(0), sites * SAMPLES + 2 * HELD_OUT
    label = draw.integers(0, CLASSES, count)
    arrays = {
        "label": label,
        "part": np.repeat([0, 1, 2], [sites * SAMPLES, HELD_OUT, HELD_OUT]),
        **{name: draw.standard_normal((count, WIDTH)) + sign * label[:, None] for name, sign in (("a", 1), ("b", -1))},
    }
    modalities = [{"name": name, "kind": "vector", "array": name, "scale": "standard"} for name in "ab"]
    described = {
        "name": "many",
        "file": "toy.npz",
        "modalities": modalities,
        "label": "label",
        "classes": [f"class_{number}" for number in range(CLASSES)],
        "split": {"array": "part", "train": [0], "validation": [1], "test": [2]},
    }
    return write(folder, arrays, described)


def settings(root: Path, sites: int, engine: dict[str, Any]) -> dict[str, Any]:
    """A tiny model, a modality of three in ten missing at a site, no evaluation between the rounds."""
    return {
        "name": "many",
        "rounds": ROUNDS,
        "data": {"name": "npz", "root": str(root)},
        "sites": {"count": sites, "fraction": SAMPLED / sites},
        "missing": {"train": {"level": "site", "rate": 0.3}},
        "evaluate": {"every": 1000},
        "modalities": {"vector": {"extractor": [WIDTH]}},
        "task": {"width": WIDTH, "hidden": WIDTH},
        "recovery": {"name": "mask"},
        "engine": engine,
    }


def measured(folder: Path, sites: int, engine: dict[str, Any]) -> Run:
    """Run the command and measure it from outside."""
    folder.mkdir(parents=True)
    path, out = folder / "config.yaml", folder / "run"
    path.write_text(yaml.safe_dump(settings(data(folder, sites), sites, engine)), encoding="utf-8")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "server.cli", "run", str(path), "--out", str(out)]
    began, started, moments = time.perf_counter(), 0.0, list[float]()
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(call, env=environment, stdout=output, stderr=output)
        scale = Scale(process.pid)
        while process.poll() is None:
            now = time.perf_counter()
            started = started or (now if (out / "manifest.json").exists() else 0.0)
            moments += [now] * (lines_in(out / "metrics.jsonl") - len(moments))
            time.sleep(LOOK_SECONDS)
    ended, memory = time.perf_counter(), scale.stop()
    assert process.returncode == 0, (folder / "output.txt").read_text()
    rounds = np.diff(moments[WARM:ROUNDS])
    left = [found for found in out.rglob("*") if found.is_file()]
    written = sum(found.stat().st_size for found in left) / 1e6
    return Run(started - began, median(rounds), ended - moments[ROUNDS - 1], memory / 1e6, len(left), written)


def lines_in(path: Path) -> int:
    """Whole lines of a growing file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


class Scale:
    """Samples the memory of a process and its descendants until ``stop``, which returns the peak in bytes."""

    def __init__(self, process: int) -> None:
        self._process, self._most, self._done = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._weigh)
        self._thread.start()

    def _weigh(self) -> None:
        while not self._done.wait(WEIGH_SECONDS):
            self._most = max(self._most, sum(map(proportional_bytes, family(self._process))))

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._most


def family(process: int) -> set[int]:
    """``process`` and its descendants."""
    parents = dict(filter(None, map(parent, Path("/proc").glob("[0-9]*"))))
    found, more = {process}, {process}
    while more:
        more = {child for child, its in parents.items() if its in more} - found
        found |= more
    return found


def parent(folder: Path) -> tuple[int, int] | None:
    """(process, its parent); None if it has ended."""
    try:
        return int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def proportional_bytes(process: int) -> int:
    """Proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def processor_seconds(process: int) -> float:
    """Processor time so far of ``process`` and its descendants; the shares of those that have ended are left out."""
    ticks = 0
    for one in family(process):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def processor_seconds_per_site(call: list[str], rounds: Path) -> float:
    """Run ``call``, which writes a line to ``rounds`` after each round, and return the processor seconds of a site in
    the steady rounds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        marks: dict[int, float] = {}
        while process.poll() is None:
            marks.setdefault(lines_in(rounds), processor_seconds(process.pid))
            time.sleep(LOOK_SECONDS)
    assert process.returncode == 0
    steady = [done for done in marks if WARM <= done < ROUNDS]  # the last round ends with an evaluation
    first, last = min(steady), max(steady)
    return (marks[last] - marks[first]) / (last - first) / SAMPLED


def best(runs: Iterable[Run]) -> Run:
    """The smallest of each number."""
    return Run(*map(min, zip(*map(astuple, runs), strict=True)))


@pytest.mark.parametrize("engine", [{"name": "inprocess"}, {"name": "ray", "workers": 2}], ids=lambda e: e["name"])
def test_round_cost_depends_on_sampled_sites_only(engine: dict[str, Any], tmp_path: Path) -> None:
    turns = [{sites: measured(tmp_path / f"{turn}-{sites}", sites, engine) for sites in SITES} for turn in range(TURNS)]
    found = {sites: best(turn[sites] for turn in turns) for sites in SITES}
    rows = [ROW.format(sites, *astuple(run)) for sites, run in found.items()]
    few, many = found[SITES[0]], found[SITES[-1]]
    growth = 1e6 * (many.memory - few.memory) / (SITES[-1] - SITES[0])
    print("\n".join(["", engine["name"], HEAD, *rows]))
    print(f"a round {many.round / few.round:.2f} times as long, {growth / 1024:.1f} KiB more per site")
    assert many.start <= MOST_START * few.start
    assert many.round <= MOST_ROUND * few.round
    assert many.closing <= MOST_CLOSING * few.closing
    assert growth <= MOST_BYTES_A_SITE


def test_a_tiny_site_costs_less_processor_time_than_in_stock_flower(tmp_path: Path) -> None:
    """The same step on four samples: 50 of 100 sites, in the simulation of a stock Flower app and in our engines."""
    stock, found = tmp_path / "stock", {}
    stock.mkdir()
    call = [sys.executable, "-m", "tests.benchmarks.stock_flower", "100", str(SAMPLED), str(ROUNDS - 1), str(stock)]
    found["stock Flower"] = processor_seconds_per_site(call, stock / "rounds")  # it evaluates before round 1, too
    for engine in ({"name": "inprocess", "workers": 2}, {"name": "ray", "workers": 2}):
        folder = tmp_path / str(engine["name"])
        folder.mkdir()
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings(data(folder, 100), 100, engine)), encoding="utf-8")
        call = [sys.executable, "-m", "server.cli", "run", str(config), "--out", str(folder / "run")]
        found[str(engine["name"])] = processor_seconds_per_site(call, folder / "run" / "metrics.jsonl")
    print("".join(f"\n{name}: {1000 * seconds:.1f} ms of processor time per site" for name, seconds in found.items()))
    assert found["inprocess"] <= MOST_OF_STOCK * found["stock Flower"]

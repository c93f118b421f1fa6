"""The time of a round against a bare PyTorch loop with the same optimizer steps, and memory over 300 rounds.

Run with ``pytest -m benchmark -s tests/benchmarks/test_round.py``. About 1 M parameters, 10 sites, one thread, complete
data, no evaluation between rounds. A round's time is the distance between two lines of ``metrics.jsonl``, so it holds
everything: sampling, messages, training, aggregation, files, checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.registry import DATASETS, RECOVERIES
from fedrecon_core.state import HEAD_GROUP, Groups, extractor_group
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import create_run
from server.training.progress import PlainProgress
from tests.helpers.runs import write
from tests.helpers.toy import toy_settings

ROUNDS, WARM = 6, 2
CONFIG: dict[str, Any] = {
    "name": "round",
    "rounds": ROUNDS,
    "data": {"name": "polydigits", "modalities": 2},
    "sites": {"count": 10},
    "evaluate": {"every": 1000},
    "modalities": {"image": {"extractor": [16, 64]}},
    "task": {"width": 448, "dropout": 0.0},
    "recovery": {"name": "mask"},
    "local": {"task": {"epochs": 4, "batch": 32}},
}


def sites_of(config: RunConfig) -> list[SiteData]:
    """The data of every site, as allocated in the run."""
    loader: Any = DATASETS.get(config.data.name)
    dataset = loader().load(config.data, None, config.seed)
    shares = allocate(dataset, config).train
    return [open_site(dataset, s.samples, s.present, device=torch.device("cpu")) for _, s in sorted(shares.items())]


def bare_round(groups: Groups, sites: list[SiteData], config: RunConfig) -> float:
    """Seconds for the same steps on the same data by plain PyTorch: dense tensors, no masks, no messages."""
    names = sites[0].spec.names
    extractors, head = [groups[extractor_group(name)] for name in names], groups[HEAD_GROUP]
    parameters = [p for group in groups.values() for p in group.parameters()]
    tensors = [([site.arrays[name].values for name in names], site.labels) for site in sites]
    began = time.perf_counter()
    for inputs, labels in tensors:
        optimizer = torch.optim.Adam(parameters, lr=config.local.task.lr)
        for _ in range(config.local.task.epochs):
            for index in torch.randperm(len(labels)).split(config.local.task.batch):
                tokens = torch.cat([e(x[index])[0] for e, x in zip(extractors, inputs, strict=True)], dim=1)
                fusion: Any = head.fusion
                weights = fusion.context(torch.tanh(fusion.projection(tokens))).softmax(dim=1)
                fused = torch.einsum("bsh,bsd->bhd", weights, tokens).flatten(1)
                classifier: Any = head.classifier
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(classifier(fused), labels[index]).backward()
                optimizer.step()
    return time.perf_counter() - began


def round_seconds(folder: Path, engine: str) -> list[float]:
    """Steady-state seconds per round of ``fedrecon run`` on ``engine`` with one worker."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    out = folder / "run"
    call = [
        sys.executable,
        "-m",
        "server.cli",
        "run",
        str(folder / "config.yaml"),
        "--engine",
        engine,
        "--out",
        str(out),
    ]
    path = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    moments: list[float] = []
    while process.poll() is None:
        if lines_in(out / "metrics.jsonl") > len(moments):
            moments.append(time.perf_counter())
        time.sleep(0.005)
    assert process.returncode == 0, process.communicate()[1]
    return [
        after - before for before, after in zip(moments[WARM - 1 : ROUNDS - 2], moments[WARM : ROUNDS - 1], strict=True)
    ]


def lines_in(path: Path) -> int:
    """Whole lines of a growing file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("engine", "limit"), [("inprocess", 1.10), ("ray", 1.25)])
@pytest.mark.usefixtures("discovered")
def test_round_takes_little_longer_than_its_optimizer_steps(engine: str, limit: float, tmp_path: Path) -> None:
    config = parse(CONFIG)
    sites = sites_of(config)
    recovery: Any = RECOVERIES.get(config.recovery.name)
    groups = recovery(config, sites[0].spec).build()
    bare_round(groups, sites, config)
    before = [bare_round(groups, sites, config) for _ in range(2)]
    rounds = round_seconds(tmp_path / engine, engine)
    after = [bare_round(groups, sites, config) for _ in range(2)]
    parameters = sum(p.numel() for group in groups.values() for p in group.parameters())
    bare, ours = median([*before, *after]), median(rounds)
    print(
        f"\n{engine}: {parameters / 1e6:.2f} M parameters, round {ours:.2f} s, bare loop {bare:.2f} s "
        f"({bare / len(sites):.2f} s per site): ratio {ours / bare:.3f} (limit {limit})"
    )
    assert ours / bare <= limit


# --- 300 rounds in one process ----------------------------------------------------------------------------------------

STEADY_ROUNDS, STEADY_WARM = 300, 50
MOST_BYTES_A_ROUND = 8 * 1024


def anonymous_bytes(process: int | str = "self") -> int:
    """Anonymous resident memory of a process, from the kernel."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/PID/status has no line RssAnon")


def open_files(process: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - only their number counts


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow(tmp_path, monkeypatch):
    samples: list[tuple[int, int]] = []

    def sampled(self, *_: object) -> None:
        samples.append((anonymous_bytes(), open_files()))

    monkeypatch.setattr(PlainProgress, "round_done", sampled)
    run = create_run(write(tmp_path, toy_settings(rounds=STEADY_ROUNDS, evaluate={"every": 50})), out=tmp_path / "run")
    InProcess().run(Job.of(run))
    memory, files = np.array(samples[STEADY_WARM:]).T
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    grown = f"{memory[0] / 1e6:.1f} MB after {STEADY_WARM}, {memory[-1] / 1e6:.1f} MB at the end"
    print(f"\n{STEADY_ROUNDS} rounds: {grown}, ", end="")
    print(f"{slope:.0f} bytes a round; open files {files[0]} to {files[-1]}")
    assert slope < MOST_BYTES_A_ROUND
    assert files[-1] <= files[0]

"""A round of the FedMultimodal protocol on UCI-HAR against a plain PyTorch loop in the benchmark's own style.

Run with ``pytest -m benchmark -s tests/benchmarks/test_uci_har_round.py`` where ``hapt_ucihar.npz`` lies in
``../shared/data``. The plain loop reads every sample through a ``DataLoader`` that collates in Python, makes masks in a
Python loop, uses the library's layers and two threads; ours is the in-process engine with two workers of one thread.
Both are measured in one go, the plain loop before and after, so that a busy machine slows both.

Evaluation is the server's, which reads as many batches at the same time as there are workers.

The aims are half of the plain loop's time for a round and a third for evaluation; the limits are what is held today.
Evaluation is bound by arithmetic: 18.6 million multiplications and additions per sample forwards, 83 thousand million
in all, of which a core that does 100 thousand million in a second takes 0.83 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.local.evaluate import predict
from fedrecon_core.recovery.base import recovery_for
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.runtime import keep_freed_memory
from server.runs.setup import load_config
from tests.helpers.raw_uci_har import prepared

PROJECT = Path(__file__).resolve().parents[2]
WINDOWS = PROJECT.parent / "shared" / "data"
CONFIG = PROJECT / "configs" / "fedmultimodal" / "uci_har_fedavg.yaml"
ROUNDS, WARM, TURNS, EVALUATED = 12, 2, 3, 4470
Sample = tuple[Tensor, Tensor, int]

pytestmark = pytest.mark.skipif(
    not (WINDOWS / "hapt_ucihar.npz").exists(), reason="hapt_ucihar.npz is not in ../shared/data"
)


class Encoder(nn.Module):
    """Three convolutions with pooling and dropout, and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv1d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Dropout(0.1)]
        self.body, self.gru = nn.Sequential(*layers), nn.GRU(128, 128, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        return self.gru(self.body(values.transpose(1, 2)).transpose(1, 2))[0]


class Plain(nn.Module):
    """Two encoders, attention over time with a mask made sample by sample, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([Encoder(), Encoder()])
        self.projection, self.context = nn.Linear(128, 512), nn.Linear(512, 6)
        self.classifier = nn.Sequential(nn.Linear(768, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 6))

    def forward(self, acc: Tensor, gyro: Tensor, lengths: Tensor) -> Tensor:
        tokens = torch.cat([e(x) for e, x in zip(self.encoders, (acc, gyro), strict=True)], dim=1)
        weights = self.context(torch.tanh(self.projection(tokens)))
        for row, (first, second) in enumerate(lengths // 8):
            weights[row, int(first) : 16] = -1e5
            weights[row, 16 + int(second) :] = -1e5
        fused = torch.einsum("bsh,bsd->bhd", weights.softmax(dim=1), tokens).flatten(1)
        return F.log_softmax(self.classifier(fused), dim=1)


def collated(samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both modalities padded, their lengths, the labels."""
    acc, gyro, labels = zip(*samples, strict=True)
    lengths = torch.tensor([[len(a), len(g)] for a, g in zip(acc, gyro, strict=True)])
    pad = nn.utils.rnn.pad_sequence
    return pad(list(acc), batch_first=True), pad(list(gyro), batch_first=True), lengths, torch.tensor(labels)


def samples_of(data: SiteData) -> list[Sample]:
    """Every sample of a site on its own."""
    batch = data.batch(torch.arange(len(data)))
    return list(zip(batch.inputs["acc"].values, batch.inputs["gyro"].values, data.labels.tolist(), strict=True))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def plain_round(model: Plain, sites: list[list[Sample]]) -> float:
    """Seconds for one epoch at each of the sites, and the weighted mean of what they made."""
    began = time.perf_counter()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = []
    for site in sites:
        model.load_state_dict(start)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-5)
        for *inputs, labels in DataLoader(site, batch_size=16, shuffle=True, collate_fn=collated):  # type: ignore[arg-type]
            optimizer.zero_grad()
            F.nll_loss(model(*inputs), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
        states.append((len(site), {name: tensor.clone() for name, tensor in model.state_dict().items()}))
    total = sum(count for count, _ in states)
    model.load_state_dict({name: sum(c / total * state[name] for c, state in states) for name in start})
    return time.perf_counter() - began


def plain_evaluation(model: Plain, samples: list[Sample]) -> float:
    """Seconds for the predictions of all samples."""
    began = time.perf_counter()
    model.eval()
    with torch.no_grad():
        for *inputs, _ in DataLoader(samples, batch_size=16, collate_fn=collated):  # type: ignore[arg-type]
            model(*inputs).argmax(dim=1)
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, discovered: None) -> Any:
    root = prepared(WINDOWS, tmp_path_factory.mktemp("har") / "folder")
    return load_config(CONFIG, [f"data.root={root}", f"rounds={ROUNDS}", "evaluate.every=1000", "engine.workers=2"])


@pytest.fixture(scope="module")
def sites(config: Any) -> list[SiteData]:
    dataset = load_dataset(config)
    shares = allocate(dataset, config).train
    return [open_site(dataset, s.samples, s.present, device=torch.device("cpu")) for _, s in sorted(shares.items())]


def our_rounds(config: Any, folder: Path) -> list[float]:
    """Seconds of training and aggregation in each steady round of ``fedrecon run``."""
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    call = [sys.executable, "-m", "server.cli", "run", str(folder / "config.yaml"), "--out", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run(call, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["train_seconds"] for line in lines if line["split"] == "train"][WARM:]


def test_round_is_faster_than_plain_loop(config: Any, sites: list[SiteData], tmp_path: Path) -> None:
    turn = cycle(samples_of(site) for site in sites)
    model = Plain()
    with threads(2):
        before = [plain_round(model, list(islice(turn, 10))) for _ in range(TURNS + 1)][1:]
    ours = our_rounds(config, tmp_path)
    with threads(2):
        after = [plain_round(model, list(islice(turn, 10))) for _ in range(TURNS)]
    ratio = median(ours) / median([*before, *after])
    print(f"\nround: {median(ours):.2f} s, plain loop {median([*before, *after]):.2f} s: ratio {ratio:.2f} (aim 0.5)")
    assert ratio <= 0.8


@pytest.mark.parametrize("size", [128, 512])
def test_evaluation_is_faster_than_plain_loop(config: Any, sites: list[SiteData], size: int) -> None:
    keep_freed_memory()  # as the engine does; the plain loop has it, too
    dataset = load_dataset(config)
    chosen = dataset.members(2)
    picked = torch.arange(EVALUATED).remainder(len(chosen)).numpy()
    present = torch.ones(EVALUATED, 2, dtype=torch.bool).numpy()
    data = open_site(dataset, chosen[picked], present, device=torch.device("cpu"))
    changed = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch": size})})
    recovery, model, samples = recovery_for(changed, dataset.spec), Plain(), samples_of(data)
    groups = recovery.build()
    global_info = GlobalInfo(1, trained=dict.fromkeys(groups, 1))
    plain, ours = [], []
    for _ in range(TURNS):
        with threads(2):
            plain.append(plain_evaluation(model, samples))
        with threads(1):
            began = time.perf_counter()
            predict(recovery, groups, global_info, data, "test", threads=config.engine.workers)
            ours.append(time.perf_counter() - began)
    ratio = median(ours) / median(plain)
    print(f"\nevaluation by {size}: {median(ours):.2f} s, plain {median(plain):.2f} s: ratio {ratio:.2f} (aim 0.33)")
    assert ratio <= 0.5

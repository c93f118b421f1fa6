"""FedAvg on UCI-HAR by the FedMultimodal protocol in plain PyTorch: an independent check of the whole federation.

The library's layers, its optimiser and clipping, a loop over sites and an average of state dicts; nothing of the local
loop, the strategies, the messages or the recoveries. Only the data are shared: who holds which windows, and which
modality a site lacks. Initialisation, batches and the sites of a round are drawn otherwise, so that the figures of one
seed differ; means over seeds should not.

``python -m tests.benchmarks.reference_fedavg --root DIR --seed 1 [--rate 0.5]`` takes about five minutes on one core
and prints one line of JSON. DIR is what ``fedrecon data prepare uci_har`` wrote.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon_core.data.allocation import SERVER, allocate
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.data.site_data import open_site
from server.runs.setup import load_config
from tests.benchmarks.test_uci_har_round import CONFIG, Plain

SITES, BATCH, TOKENS = 10, 16, 16
Windows = tuple[Tensor, Tensor, Tensor, Tensor]
"""Acceleration and angular velocity, float32 [N, 128, 3] and zero where the modality is missing; whether each is there,
bool [N, 2]; labels, int64 [N]."""


def windows(dataset: Any, share: Any) -> Windows:
    """All windows of a share of the data."""
    data = open_site(dataset, share.samples, share.present, device=torch.device("cpu"))
    batch = data.batch(torch.arange(len(data)))
    found = [torch.zeros(len(data), 128, 3) for _ in range(2)]
    for values, name in zip(found, ("acc", "gyro"), strict=True):
        values[data.present[:, data.spec.names.index(name)]] = batch.inputs[name].values
    return found[0], found[1], data.present, data.labels


def log_probabilities(model: Plain, acc: Tensor, gyro: Tensor, present: Tensor) -> Tensor:
    """[N, C]. The attention does not see the tokens of a modality that is missing."""
    tokens = torch.cat([encode(x) for encode, x in zip(model.encoders, (acc, gyro), strict=True)], dim=1)
    scores = model.context(torch.tanh(model.projection(tokens)))
    scores = scores.masked_fill(~present.repeat_interleave(TOKENS, dim=1)[:, :, None], -1e5)
    fused = torch.einsum("bsh,bsd->bhd", scores.softmax(dim=1), tokens).flatten(1)
    return F.log_softmax(model.classifier(fused), dim=1)


def train(model: Plain, site: Windows) -> None:
    """One epoch."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-5)
    for index in torch.randperm(len(site[3])).split(BATCH):
        acc, gyro, present, labels = (values[index] for values in site)
        optimizer.zero_grad()
        F.nll_loss(log_probabilities(model, acc, gyro, present), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()


def macro_f1(model: Plain, data: Windows) -> float:
    """In per cent."""
    model.eval()
    with torch.inference_mode():
        parts = [log_probabilities(model, a, g, p).argmax(1) for a, g, p, _ in zip(*(x.split(128) for x in data))]  # noqa: B905
    return 100 * float(f1_score(data[3], torch.cat(parts), average="macro", zero_division=0))


def one_round(model: Plain, sites: list[Windows], chosen: list[int]) -> None:
    """Train each sampled site from the same start; return the average weighted by samples."""
    start, total = copy.deepcopy(model.state_dict()), sum(len(sites[site][3]) for site in chosen)
    mean = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for site in chosen:
        model.load_state_dict(start)
        train(model, sites[site])
        for name, tensor in model.state_dict().items():
            mean[name] += len(sites[site][3]) / total * tensor
    model.load_state_dict(mean)


def run(root: Path, seed: int, rate: float, rounds: int) -> dict[str, float]:
    """Test score at the round with the best validation score."""
    config = load_config(CONFIG, [f"data.root={root.resolve()}", f"seed={seed}", f"missing.train.rate={rate}"])
    dataset = load_dataset(config)
    shares = allocate(dataset, config)
    sites = [windows(dataset, share) for _, share in sorted(shares.train.items())]
    validation, test = (windows(dataset, split[SERVER]) for split in (shares.validation, shares.test))
    torch.manual_seed(seed)
    model, generator = Plain(), np.random.default_rng(seed)
    curve: list[float] = []
    best = model.state_dict()
    for _ in range(rounds):
        drawn = sorted(generator.choice(len(sites), SITES, replace=False).tolist())
        one_round(
            model, sites, [site for site in drawn if bool(sites[site][2].any())]
        )  # a site without samples does not train
        curve.append(macro_f1(model, validation))
        if curve[-1] > max(curve[:-1], default=-1.0):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    above = next((number for number, score in enumerate(curve, 1) if score > 30), rounds)
    return {"seed": seed, "rate": rate, "best_round": 1 + int(np.argmax(curve)), "above_30_from": above} | {
        "test_macro_f1": macro_f1(model, test)
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="at this rate a site lacks a modality")
    parser.add_argument("--rounds", type=int, default=200)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(run(chosen.root, chosen.seed, chosen.rate, chosen.rounds)))


if __name__ == "__main__":
    main()

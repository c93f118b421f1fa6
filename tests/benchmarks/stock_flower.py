"""A stock Flower simulation with the local steps of ``test_sites.py``: FedAvg over a small model of two vectors.

``python -m tests.benchmarks.stock_flower SITES SAMPLED ROUNDS FOLDER`` appends a line to ``FOLDER/rounds`` after every
round.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor, nn

CLASSES, WIDTH, SAMPLES = 4, 8, 4
client = ClientApp()


class Net(nn.Module):
    """An extractor per vector and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.extractors = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2)])
        self.head = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        tokens = [extract(x) for extract, x in zip(self.extractors, (one, other), strict=True)]
        logits: Tensor = self.head(torch.cat(tokens, dim=1))
        return logits


@client.train()
def train(message: Message, context: Context) -> Message:
    """One step of Adam on the site's four samples."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(int(context.node_config["partition-id"]))
    labels = draw.integers(0, CLASSES, SAMPLES)
    inputs = [torch.from_numpy((draw.standard_normal((SAMPLES, WIDTH)) + labels[:, None]).astype("f4")) for _ in "ab"]
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(net(*inputs), torch.from_numpy(labels))
    loss.backward()
    optimizer.step()
    metrics = MetricRecord({"loss": float(loss.detach()), "num-examples": SAMPLES})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


def main(sites: int, sampled: int, rounds: int, folder: Path) -> None:
    """Simulate ``rounds`` rounds with ``sampled`` of ``sites`` sites on two workers."""
    server = ServerApp()

    def mark(round_: int, arrays: ArrayRecord) -> MetricRecord:
        with (folder / "rounds").open("a") as file:
            file.write(f"{round_}\n")
        return MetricRecord({})

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=sampled / sites, fraction_evaluate=0.0, min_available_nodes=sites)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=rounds, evaluate_fn=mark)

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server_app=server, client_app=client, num_supernodes=sites, backend_config=backend)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))

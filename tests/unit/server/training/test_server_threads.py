"""How many batches the server reads at the same time."""

import pytest
import torch

from fedrecon_core.config import Engine
from server.training.evaluation import threads_of

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("engine", "device", "threads"),
    [
        (Engine(workers=3), "cpu", 3),
        (Engine(), "cpu", 1),
        (Engine(name="ray", workers=3), "cpu", 3),
        (Engine(name="ray", workers=3, ray_address="host:6379"), "cpu", 1),
        (Engine(name="deployment", workers=3), "cpu", 1),
        (Engine(workers=3), "cuda", 1),
    ],
)
def test_the_server_reads_as_many_batches_at_a_time_as_workers_wait_on_its_own_machine(engine, device, threads):
    assert threads_of(engine, torch.device(device)) == threads

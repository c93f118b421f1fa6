"""What a cell asks for of a Ray cluster."""

import pytest

from fedrecon_core.errors import UsageError
from server.sweep.on_ray import gpu_share
from server.sweep.today import device_on_ray
from tests.toys.federation import toy_config

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(1.0, None, 1.0), (8.0, None, 1.0), (2.0, 8, 0.25), (2.0, 3, 0.5), (4.0, 2, 1.0), (1.0, 7, 0.1428), (1.0, 1, 1.0)],
)
def test_a_run_on_cuda_asks_for_a_gpu_or_for_so_little_that_all_workers_find_room(gpus, workers, share):
    assert gpu_share(gpus, workers) == share
    assert int(gpus) * int(1 / share) >= (workers or 1)


@pytest.mark.parametrize("workers", [None, 4])
def test_a_cluster_without_a_gpu_is_told(workers):
    with pytest.raises(UsageError, match="device: 'cuda' needs a GPU, and the Ray cluster has none"):
        gpu_share(0, workers)


def test_only_who_asks_for_a_gpu_gets_one():
    config = toy_config("mask")
    devices = {name: device_on_ray(config.model_copy(update={"device": name})) for name in ("auto", "cpu", "cuda")}
    assert devices == {"auto": "cpu", "cpu": "cpu", "cuda": "cuda"}

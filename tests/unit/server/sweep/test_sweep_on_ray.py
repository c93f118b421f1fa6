"""What a cell asks for of a Ray cluster, and how it comes back from one."""

import json
import threading
import time
from contextlib import suppress

import pytest

from fedrecon_core.errors import RunError, UsageError
from server.runs.directory import RunDirectory
from server.sweep.current_provenance import device_on_ray
from server.sweep.folder_swap import exchange
from server.sweep.packed import pack, unpack
from server.sweep.ray_executor import gpu_share, received
from tests.helpers.federation import toy_config

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


@pytest.fixture
def sent(tmp_path):
    """The run directory of a cell that was sent, and what comes back."""
    here, there = tmp_path / "cell", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "config.yaml").write_text(folder.name)
    (there / "result.json").write_text(json.dumps({"status": "completed"}))
    return RunDirectory(here), pack(there)


def test_a_run_that_someone_goes_on_with_is_not_taken_from_under_them(sent):
    run, data = sent
    with run.lock():
        ended = received(run.path, data)
        assert run.config.read_text() == "cell"
        assert not run.completed()
    expected = f"it came back and could not be written here: the run in {run.path} is being worked on by process "
    assert ended.reason.startswith(expected)
    assert received(run.path, data).reason == ""
    assert run.config.read_text() == "there"
    assert run.completed()


def test_who_waited_while_a_run_came_back_holds_the_one_that_came(sent):
    """The folder that they waited for is gone, and with it the file whose lock they would have got."""
    run, data = sent
    seen = []

    def resume():
        with run.lock():
            seen.append(run.completed())
            with suppress(RunError), run.lock(0.0):
                seen.append("another holds it, too")

    with run.lock():
        waiting = threading.Thread(target=resume)
        waiting.start()
        time.sleep(0.5)
        exchange(run.path, lambda arrived: unpack(data, arrived))
        assert seen == []
    waiting.join()
    assert seen == [True]

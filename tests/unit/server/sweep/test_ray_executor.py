"""Resources that a trial reserves on a Ray cluster, and how it is copied back."""

import json
import tarfile
import threading
import time
from contextlib import suppress

import pytest

from fedrecon_core.errors import RunError, UsageError
from fedrecon_core.files import replace_folder
from server.runs.directory import RunDirectory
from server.sweep.ray_executor import copy_back, gpu_share, pack, unpack
from server.sweep.store import device_on_ray
from tests.helpers.toy import toy_config

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(1.0, None, 1.0), (8.0, None, 1.0), (2.0, 8, 0.25), (2.0, 3, 0.5), (4.0, 2, 1.0), (1.0, 7, 0.1428), (1.0, 1, 1.0)],
)
def test_a_run_on_cuda_reserves_a_gpu_or_a_part_so_small_that_all_workers_fit(gpus, workers, share):
    assert gpu_share(gpus, workers) == share
    assert int(gpus) * int(1 / share) >= (workers or 1)


@pytest.mark.parametrize("workers", [None, 4])
def test_a_cluster_without_a_gpu_is_refused(workers):
    with pytest.raises(UsageError, match="device: 'cuda' needs a GPU, and the Ray cluster has none"):
        gpu_share(0, workers)


def test_on_ray_only_cuda_means_a_gpu():
    config = toy_config("mask")
    devices = {name: device_on_ray(config.model_copy(update={"device": name})) for name in ("auto", "cpu", "cuda")}
    assert devices == {"auto": "cpu", "cpu": "cpu", "cuda": "cuda"}


@pytest.fixture
def sent(tmp_path):
    """The run directory of a trial that was sent, and what comes back."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "config.yaml").write_text(folder.name)
    (there / "result.json").write_text(json.dumps({"status": "completed"}))
    return RunDirectory(here), pack(there)


def test_a_run_resumed_by_another_process_is_not_replaced(sent):
    run, data = sent
    with run.lock():
        ended = copy_back(run.path, data)
        assert run.config.read_text() == "here"
        assert not run.completed()
    expected = f"it came back and could not be written here: the run in {run.path} is being worked on by process "
    assert ended.reason.startswith(expected)
    assert copy_back(run.path, data).reason == ""
    assert run.config.read_text() == "there"
    assert run.completed()


def test_a_lock_that_waited_during_a_copy_back_is_of_the_new_folder(sent):
    """The folder that it waited for is replaced, and with it the lock file that it had opened."""
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
        replace_folder(run.path, lambda arrived: unpack(data, arrived))
        assert seen == []
    waiting.join()
    assert seen == [True]


def test_a_packed_folder_is_unpacked_as_it_was_and_a_damaged_one_leaves_the_old(tmp_path):
    def content(folder):
        return sorted(path.name for path in folder.iterdir()), (folder / "config.yaml").read_text()

    old, source = tmp_path / "trial", tmp_path / "source"
    (old / "checkpoints").mkdir(parents=True)
    source.mkdir()
    (old / "config.yaml").write_text("old")
    (source / "config.yaml").write_text("new")
    (source / "result.json").write_text("{}")
    data = pack(source, ("result.json",))
    with pytest.raises(tarfile.TarError):
        replace_folder(old, lambda arrived: unpack(data[:100], arrived))
    assert content(old) == (["checkpoints", "config.yaml"], "old")
    replace_folder(old, lambda arrived: unpack(data, arrived))
    assert content(old) == (["config.yaml"], "new")

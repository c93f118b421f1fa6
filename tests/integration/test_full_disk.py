"""A full disk: one clear line, the last good version of everything stays, and the run goes on once there is room."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from client.site_store import DiskSiteStore
from fedrecon_core.data.site_data import open_site
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.errors import DataError, RunError
from fedrecon_core.inference import load_model, save_model
from fedrecon_core.local.evaluate import Predictions
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import State, read_group
from server.runs.directory import RunDirectory
from server.runs.predictions import write_predictions
from server.training.checkpoints import Training, load_newest, save
from tests.helpers.federation import tiny_dataset, toy_recovery
from tests.helpers.folders import content
from tests.helpers.small_disk import files_end_at

pytestmark = pytest.mark.faults

FULL = "(No space left|File too large)"
BYTES = 2 * 1024 * 1024


@dataclass
class Disk:
    """A folder on a disk. In the contexts ``small`` it has room for 2 MB, and in ``full`` (nearly) none. They end
    within the test: pytest's own output may go to a file, too."""

    path: Path
    small: Callable[[], AbstractContextManager[object]]
    full: Callable[[], AbstractContextManager[object]]


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[Disk]:
    """A file system of 2 MB."""
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("no right to mount a small file system here; the same is tested with limited files")

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        with (path / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"0" * 4096):
                pass
        yield
        (path / "filler").unlink()

    try:
        yield Disk(path, contextlib.nullcontext, full)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def limited(path: Path) -> Iterator[Disk]:
    """No file larger than 2 MB, or than 512 bytes once it is full: for those who may not mount."""
    yield Disk(path, lambda: files_end_at(BYTES), lambda: files_end_at(512))


@pytest.fixture(params=[mounted, limited])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with request.param(tmp_path) as found:
        yield found


def training(round_: int, numbers: int) -> Training:
    return Training(round=round_, groups={"task.head": {"weight": torch.arange(numbers, dtype=torch.float32)}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_that_finds_no_room_keeps_the_last_one(disk):
    save(disk.path / "checkpoints", training(1, 100_000))
    words = rf"cannot write checkpoint .*round-000002: .*{FULL}.*the last good one is kept.*--resume"
    with disk.small(), pytest.raises(RunError, match=words):
        save(disk.path / "checkpoints", training(2, 600_000))
    kept = load_newest(disk.path / "checkpoints")
    assert kept is not None
    assert kept.round == 1
    assert names(disk.path / "checkpoints") == ["round-000001"]
    save(disk.path / "checkpoints", training(2, 100))
    assert load_newest(disk.path / "checkpoints").round == 2


def test_metrics_that_find_no_room_are_told_and_half_a_line_goes_with_the_resume(disk):
    directory = RunDirectory(disk.path)
    directory.append("metrics.jsonl", [{"round": 1, "split": "train"}])
    with disk.full(), pytest.raises(RunError, match=rf"cannot write .*metrics\.jsonl: {FULL}"):
        directory.append("metrics.jsonl", [{"round": 2, "split": "train", "text": "x" * 8192}])
    directory.drop_rounds_after("metrics.jsonl", 1)
    assert (disk.path / "metrics.jsonl").read_text() == '{"round": 1, "split": "train"}\n'


def test_site_state_that_finds_no_room_names_the_folder_and_keeps_the_versions(disk):
    state = disk.path / "state"
    DiskSiteStore(state, 1).save("memory", {"a": {"x": torch.ones(10)}})
    with (
        disk.full(),
        pytest.raises(DataError, match=rf"state folder .* cannot be written: .*{FULL}.*; make room or mend"),
    ):
        DiskSiteStore(state, 2).save("memory", {"a": {"x": torch.ones(10_000)}})
    assert torch.equal(DiskSiteStore(state, 2).load("memory")["a"]["x"], torch.ones(10))
    assert names(state) == ["memory.round-000001.safetensors"]


def test_a_model_that_finds_no_room_is_told_and_leaves_the_one_that_was_there(disk):
    recovery = toy_recovery("mask")
    model: dict[str, State] = {name: read_group(module) for name, module in recovery.build().items()}
    trained = GlobalInfo(3, dict.fromkeys(model, 5))
    save_model(disk.path / "model", model, recovery, trained)
    with (
        disk.full(),
        pytest.raises(RunError, match=rf"cannot write the model .*/model: .*{FULL}.*; make room .*, then resume"),
    ):
        save_model(disk.path / "model", model, recovery, GlobalInfo(4, dict.fromkeys(model, 9)))
    assert names(disk.path / "model") == ["model.safetensors", "model.yaml"]
    assert load_model(disk.path).global_info.round == 3


def test_predictions_that_find_no_room_are_told_and_leave_those_that_were_there(disk):
    dataset, path = tiny_dataset(400, 100), disk.path / "predictions.parquet"
    members = dataset.members(0)
    data = open_site(dataset, members, dataset.exists()[members], device=torch.device("cpu"))
    said = Predictions(logits=torch.rand(len(data), 3))
    write_predictions(path, data, said)
    with disk.full(), pytest.raises(RunError, match=rf"cannot write .*predictions\.parquet: .*{FULL}.*; make room"):
        write_predictions(path, data, said)
    assert names(disk.path) == ["predictions.parquet"]
    assert pq.read_table(path).num_rows == len(data)


def test_a_specification_is_not_lost_when_it_is_sealed_without_room(disk):
    folder = disk.path / "north"
    write_folder(folder, content(tiny_dataset(12, 8)))
    written = "# by hand\n" + (folder / "dataset.yaml").read_text()
    (folder / "dataset.yaml").write_text(written)
    with disk.full():
        [fault] = seal_folder(folder)
    assert "cannot be sealed" in fault
    assert "dataset.yaml was not changed" in fault
    assert (folder / "dataset.yaml").read_text() == written
    assert check_folder(folder) == []

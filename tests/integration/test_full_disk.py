"""A full disk: one clear line, the last good checkpoint stays, and the run goes on once there is room."""

import contextlib
import subprocess
from pathlib import Path

import pytest
import torch

from client.shelf import DiskShelf
from fedrecon_core.errors import DataError, RunError
from server.checkpoint import Training, load_newest, save
from server.run_directory import RunDirectory

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """A file system of 2 MB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def training(round_: int, numbers: int) -> Training:
    return Training(round=round_, groups={"task.head": {"weight": torch.arange(numbers, dtype=torch.float32)}})


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"0" * 4096):
            pass


def test_a_checkpoint_that_finds_no_room_keeps_the_last_one(disk):
    save(disk / "checkpoints", training(1, 100_000))
    with pytest.raises(
        RunError, match=r"cannot write checkpoint .*round-000002: .*the last good one is kept.*--resume"
    ):
        save(disk / "checkpoints", training(2, 600_000))
    kept = load_newest(disk / "checkpoints")
    assert kept is not None
    assert kept.round == 1
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["round-000001"]
    save(disk / "checkpoints", training(2, 100))
    assert load_newest(disk / "checkpoints").round == 2


def test_metrics_that_find_no_room_are_told_and_half_a_line_goes_with_the_resume(disk):
    directory = RunDirectory(disk)
    directory.append("metrics.jsonl", [{"round": 1, "split": "train"}])
    fill(disk)
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl: No space left"):
        directory.append("metrics.jsonl", [{"round": 2, "split": "train", "text": "x" * 8192}])
    (disk / "filler").unlink()
    directory.drop_rounds_after("metrics.jsonl", 1)
    assert (disk / "metrics.jsonl").read_text() == '{"round": 1, "split": "train"}\n'


def test_site_state_that_finds_no_room_names_the_folder_and_keeps_the_versions(disk):
    DiskShelf(disk / "state", 1).save("memory", {"a": {"x": torch.ones(10)}})
    fill(disk)
    with pytest.raises(DataError, match=r"state folder .* cannot be written: .*"):
        DiskShelf(disk / "state", 2).save("memory", {"a": {"x": torch.ones(10_000)}})
    assert torch.equal(DiskShelf(disk / "state", 2).load("memory")["a"]["x"], torch.ones(10))

"""300 rounds in one process: anonymous memory and open files stay where they were after the first rounds."""

import os
from pathlib import Path

import numpy as np
import pytest

from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import create_run
from server.training.progress import PlainProgress
from tests.helpers.runs import write
from tests.helpers.toy import toy_settings

pytestmark = pytest.mark.slow

ROUNDS, WARM = 300, 50
MOST_BYTES_A_ROUND = 8 * 1024


def anonymous_bytes(process: int | str = "self") -> int:
    """Anonymous resident memory of a process, from the kernel."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell RssAnon")


def open_files(process: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - only their number counts


def test_memory_and_files_stay_flat(tmp_path, monkeypatch):
    samples: list[tuple[int, int]] = []

    def sampled(self, *_: object) -> None:
        samples.append((anonymous_bytes(), open_files()))

    monkeypatch.setattr(PlainProgress, "round_done", sampled)
    run = create_run(write(tmp_path, toy_settings(rounds=ROUNDS, evaluate={"every": 50})), out=tmp_path / "run")
    InProcess().run(Job.of(run))
    memory, files = np.array(samples[WARM:]).T
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    print(f"\n{ROUNDS} rounds: {memory[0] / 1e6:.1f} MB after {WARM}, {memory[-1] / 1e6:.1f} MB at the end, ", end="")
    print(f"{slope:.0f} bytes a round; open files {files[0]} to {files[-1]}")
    assert slope < MOST_BYTES_A_ROUND
    assert files[-1] <= files[0]

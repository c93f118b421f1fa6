"""``kill -9`` at any moment of a run, or a damaged checkpoint, then ``--resume``: the end of a run without a fault."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrecon_core.errors import RunError
from server.training.checkpoints import newest_round
from strategies.fedavg import FedAvg
from tests.helpers import runs
from tests.helpers.interruption import Momentum, stop_in
from tests.helpers.processes import wait_until

pytestmark = pytest.mark.faults

CONFIG = {
    "name": "killed",
    "rounds": 6,
    "data": {"name": "polydigits", "modalities": 2, "tuples": 1},
    "sites": {"count": 3},
    "missing": {split: {"level": "sample", "rate": 0.3} for split in ("train", "validation", "test")},
    "recovery": {
        "name": "fedrecon",
        "latent": 4,
        "warmup_rounds": 1,
        "mapping": {"hidden": [8]},
        "ggfs": {"refresh": "deployment"},  # what each site then keeps on its disk bends every later round
    },
    "strategy": {"name": "fedopt", "momentum": 0.9},
    "task": {"width": 8, "hidden": 8},
    "local": {"generator": {"batch": 256}, "mapping": {"batch": 256}, "task": {"batch": 256}},
}


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).parent / "fedrecon", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def metrics(directory: Path) -> list[dict]:
    return runs.without_clock(runs.lines(directory, "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The config, the directory of the run that was never killed, and how long it took."""
    base = tmp_path_factory.mktemp("whole")
    config = runs.write(base, CONFIG)
    began = time.monotonic()
    assert start(str(config), "--out", str(base / "run")).wait() == 0
    assert len(list((base / "run" / "sites").glob("*/frozen.round-*.safetensors"))) == CONFIG["sites"]["count"]
    return config, base / "run", time.monotonic() - began


def completed(directory: Path) -> bool:
    return (directory / "result.json").exists() and runs.result(directory)["status"] == "completed"


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check_resumed(config: Path, expected: Path, out: Path) -> None:
    """Resume the killed run, or begin it again where it had not begun; compare its end with the whole run."""
    if not completed(out):
        resumable = (out / "config.yaml").exists()
        again = start("--resume", "--out", str(out)) if resumable else start(str(config), "--out", str(out))
        assert again.wait() == 0
    assert runs.result(out)["parameters_sha256"] == runs.result(expected)["parameters_sha256"]
    assert runs.result(out)["test"] == runs.result(expected)["test"]
    assert metrics(out) == metrics(expected)


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_a_killed_run_is_resumed_to_the_same_bytes(whole, tmp_path, rounds):
    """Killed while a site trains: its state of the next round is written, or about to be."""
    config, expected, _ = whole
    process = start(str(config), "--out", str(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    wait_until(f"{rounds} rounds are over", lambda: newest_round(checkpoints) >= rounds, process)
    kill(process)
    assert not completed(tmp_path / "run")
    check_resumed(config, expected, tmp_path / "run")


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_is_resumed_to_the_same_bytes(whole, tmp_path):
    config, expected, seconds = whole
    draw = random.Random(0)
    for number in range(20):
        process = start(str(config), "--out", str(tmp_path / str(number)))
        time.sleep(draw.uniform(0.05, 1.0) * seconds)
        kill(process)
        check_resumed(config, expected, tmp_path / str(number))


def test_a_run_without_its_newest_checkpoint_ends_like_one_that_never_stopped(tmp_path, monkeypatch):
    """Round 4 is over at the sites when the server dies; its checkpoint of round 3 cannot be read, so 3 is repeated."""
    monkeypatch.setattr(FedAvg, "local_half", staticmethod(lambda params: Momentum()))
    raw = runs.settings(rounds=4, local={"task": {"optimizer": "sgd", "lr": 0.01}})
    whole = runs.run(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        stop_in(4, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "cut", raw)
    cut = tmp_path / "cut" / "run"
    newest = cut / "checkpoints" / "round-000003"
    (newest / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"round-000003 cannot be read: .*; remove it to resume from the one before"):
        runs.resume(cut)
    shutil.rmtree(newest)
    assert runs.result(runs.resume(cut))["parameters_sha256"] == runs.result(whole)["parameters_sha256"]

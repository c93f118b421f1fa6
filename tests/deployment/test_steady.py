"""30 rounds of a real federation: flat anonymous memory and open files at every part; and where a round's time goes."""

import json
from pathlib import Path

import numpy as np
import pytest

from server.prepare import load_config
from server.split import write_sites
from tests.benchmarks.test_steady import anonymous_bytes, open_files
from tests.deployment.federation import Federation, wait_until
from tests.toys.runs import write

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

ROUNDS, WARM = 30, 5
MOST_BYTES_A_ROUND = 512 * 1024
CONFIG = {
    "name": "steady",
    "rounds": ROUNDS,
    "data": {"name": "polydigits", "modalities": 3, "tuples": 1},
    "sites": {"count": 3},
    "task": {"width": 256, "hidden": 256},
    "recovery": "mask",
    "evaluate": {"every": ROUNDS},
}


def test_thirty_rounds(tmp_path):
    folders = list(write_sites(load_config(write(tmp_path, CONFIG)), tmp_path / "sites"))
    federation = Federation(tmp_path / "net", {folder.name: folder for folder in folders})
    samples: dict[str, list[tuple[int, int]]] = {}
    try:
        federation.start()
        command = federation.run(str(tmp_path / "sites" / "federation.yaml"), "--out", str(tmp_path / "run"))
        for round_ in range(1, ROUNDS + 1):
            done = tmp_path / "run" / "checkpoints" / f"round-{round_:06d}"
            wait_until(f"round {round_}", done.is_dir, 120)
            for name, process in federation.processes().items():
                samples.setdefault(name, []).append((anonymous_bytes(process), open_files(process)))
        command.communicate(timeout=120)
        assert command.returncode == 0
    finally:
        federation.close()
    tell_rounds(tmp_path / "run")
    slopes = {name: tell_series(name, np.array(series[WARM:])) for name, series in samples.items()}
    ours = {name: slope for name, slope in slopes.items() if name != "superlink"}  # that one is all Flower's
    assert max(ours.values()) < MOST_BYTES_A_ROUND
    assert all(series[-1][1] <= series[WARM][1] + 3 for series in samples.values()), "open files grow"


def tell_series(name: str, series: np.ndarray) -> float:
    """Print what the process ``name`` used, and return the bytes that it grows by in a round."""
    memory, files = series.T
    slope = float(np.polyfit(np.arange(len(memory)), memory, 1)[0])
    told = f"{memory[0] / 1e6:.1f} to {memory[-1] / 1e6:.1f} MB, {slope / 1024:.0f} KiB a round"
    print(f"{name}: {told}, open files {files[0]} to {files[-1]}")
    return slope


def tell_rounds(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    rounds = [json.loads(line)["train_seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()[:ROUNDS]]
    sites = [json.loads(line)["total_seconds"] for line in (run / "sites.jsonl").read_text().splitlines()]
    size, whole, at_sites = manifest["full_bytes"] / 1e6, np.median(rounds), np.median(sites)
    print(f"\nmodel {size:.2f} MB; a round {whole:.1f} s, of which a site works {at_sites:.2f} s")

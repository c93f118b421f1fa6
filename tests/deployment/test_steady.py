"""40 rounds of a real federation: no process keeps models or files of earlier rounds; how a round spends its time."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedrecon_core.preparation.simulated_sites import write_sites
from server.runs.setup import load_config
from tests.benchmarks.test_round import anonymous_bytes, open_files
from tests.deployment.federation import Federation, output_of
from tests.helpers import runs
from tests.helpers.processes import wait_until

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

ROUNDS, WARM = 40, 10
MOST_BYTES = 8_000_000
"""Growth of a process in all rounds after the first ``WARM``; one model of a megabyte kept in each would be 30 MB."""
CONFIG = {
    "name": "steady",
    "rounds": ROUNDS,
    "data": {"name": "polydigits", "modalities": 3, "tuples": 1},
    "sites": {"count": 3},
    "task": {"width": 112, "hidden": 112},
    "recovery": "mask",
    "evaluate": {"every": ROUNDS},
}


def test_forty_rounds(tmp_path):
    folders = list(write_sites(load_config(runs.write(tmp_path, CONFIG)), tmp_path / "sites"))
    federation = Federation(tmp_path / "net", {folder.name: folder for folder in folders})
    samples: dict[str, list[tuple[int, int]]] = {}
    try:
        federation.start()
        command = federation.run(str(tmp_path / "sites" / "federation.yaml"), "--out", str(tmp_path / "run"))
        for round_ in range(1, ROUNDS + 1):
            done = tmp_path / "run" / "checkpoints" / f"round-{round_:06d}"
            wait_until(f"round {round_}", done.is_dir, command)
            for name, process in federation.processes().items():
                samples.setdefault(name, []).append((anonymous_bytes(process), open_files(process)))
        output_of(command)
        assert command.returncode == 0
    finally:
        federation.close()
    size = print_times(tmp_path / "run")
    growth = {name: print_growth(name, np.array(series[WARM:])) for name, series in samples.items()}
    growth.pop("superlink")  # printed and not judged: it is all Flower's
    assert 0.9e6 < size < 1.1e6
    assert max(growth.values()) < MOST_BYTES
    assert all(series[-1][1] <= series[WARM][1] + 3 for series in samples.values()), "open files grow"


def print_growth(name: str, series: np.ndarray) -> float:
    """Print what the process ``name`` used in each round; return by how many bytes it grew, by a straight line."""
    memory, files = series.T
    slope = float(np.polyfit(np.arange(len(memory)), memory, 1)[0])
    used = f"{memory[0] / 1e6:.1f} to {memory[-1] / 1e6:.1f} MB, {slope / 1024:.0f} KiB a round"
    print(f"{name}: {used}, open files {files[0]} to {files[-1]}")
    return slope * len(memory)


def print_times(run: Path) -> int:
    """Print where the time of a round goes, and return the bytes of the model. The sites work in parallel, so the
    slowest one counts."""
    size = json.loads((run / "manifest.json").read_text())["full_bytes"]
    rounds = {
        line["round"]: line["train_seconds"] for line in runs.lines(run, "metrics.jsonl") if line["split"] == "train"
    }
    sites = [line for line in runs.lines(run, "sites.jsonl") if line["status"] == "ok"]
    slowest = [max((s for s in sites if s["round"] == r), key=lambda s: s["total_seconds"]) for r in rounds]
    stages = sorted(key for key in slowest[0] if key.endswith("_seconds") and key != "total_seconds")
    whole, at_site = np.median(list(rounds.values())), np.median([s["total_seconds"] for s in slowest])
    by_stage = {key.removesuffix("_seconds"): np.median([s[key] for s in slowest]) for key in stages}
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in by_stage.items())
    total, other = sum(rounds.values()), at_site - sum(by_stage.values())
    print(
        f"\nmodel {size / 1e6:.2f} MB; {len(rounds)} rounds, {total:.0f} train_seconds, {whole:.2f} in a round (median)"
    )
    print(f"  {at_site:.2f} s of a round the slowest site works: {parts}, data and packing {other:.2f} s")
    print(
        f"  {whole - at_site:.2f} s are Flower's: a process for every message, its imports, and the way there and back"
    )
    return size

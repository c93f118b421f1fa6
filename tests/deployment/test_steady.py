"""30 rounds of a real federation: flat anonymous memory and open files at every part; and where a round's time goes."""

import json
from pathlib import Path

import numpy as np
import pytest

from server.commands.data.site_split import write_sites
from server.runs.setup import load_config
from tests.benchmarks.test_steady import anonymous_bytes, open_files
from tests.deployment.federation import Federation, wait_until
from tests.helpers.runs import write

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

ROUNDS, WARM = 30, 5
MOST_BYTES_A_ROUND = 64 * 1024
"""A model that stays in memory after its round would be a megabyte."""
CONFIG = {
    "name": "steady",
    "rounds": ROUNDS,
    "data": {"name": "polydigits", "modalities": 3, "tuples": 1},
    "sites": {"count": 3},
    "task": {"width": 112, "hidden": 112},
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
    size = tell_rounds(tmp_path / "run")
    slopes = {name: tell_series(name, np.array(series[WARM:])) for name, series in samples.items()}
    slopes.pop("superlink")  # told and not judged: it is all Flower's
    assert 0.9e6 < size < 1.1e6
    assert max(slopes.values()) < MOST_BYTES_A_ROUND
    assert all(series[-1][1] <= series[WARM][1] + 3 for series in samples.values()), "open files grow"


def tell_series(name: str, series: np.ndarray) -> float:
    """Print what the process ``name`` used, and return the bytes that it grows by in a round."""
    memory, files = series.T
    slope = float(np.polyfit(np.arange(len(memory)), memory, 1)[0])
    told = f"{memory[0] / 1e6:.1f} to {memory[-1] / 1e6:.1f} MB, {slope / 1024:.0f} KiB a round"
    print(f"{name}: {told}, open files {files[0]} to {files[-1]}")
    return slope


def tell_rounds(run: Path) -> int:
    """Print where the time of a round goes, and return the bytes of the model. The sites work side by side, so the
    slowest one counts."""
    size = json.loads((run / "manifest.json").read_text())["full_bytes"]
    rounds = {line["round"]: line["train_seconds"] for line in lines(run, "metrics.jsonl") if line["split"] == "train"}
    sites = [line for line in lines(run, "sites.jsonl") if line["status"] == "ok"]
    slowest = [max((s for s in sites if s["round"] == r), key=lambda s: s["total_seconds"]) for r in rounds]
    stages = sorted(key for key in slowest[0] if key.endswith("_seconds") and key != "total_seconds")
    whole, at_site = np.median(list(rounds.values())), np.median([s["total_seconds"] for s in slowest])
    by_stage = {key.removesuffix("_seconds"): np.median([s[key] for s in slowest]) for key in stages}
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in by_stage.items())
    total, other = sum(rounds.values()), at_site - sum(by_stage.values())
    print(
        f"\nmodel {size / 1e6:.2f} MB; {len(rounds)} rounds, {total:.0f} train_seconds, {whole:.2f} in a round (median)"
    )
    print(f"  {at_site:.2f} s of a round the slowest site works: {told}, data and packing {other:.2f} s")
    print(
        f"  {whole - at_site:.2f} s are Flower's: a process for every message, its imports, and the way there and back"
    )
    return size


def lines(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]

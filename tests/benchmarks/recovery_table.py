"""The table of recoveries on polydigits: 5 seeds, two settings, 95% intervals by bootstrap over source digits.

``python tests/benchmarks/recovery_table.py --out runs/table`` runs what is not there yet, two cells at a time, and
prints the table as Markdown. A cell that has a completed result is read back, so the script can be stopped and started.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("site_missing", "coupled")
METHODS = {
    "zero": ["recovery=zero"],
    "uniform": ["recovery=uniform"],
    "mean": ["recovery=mean"],
    "mask": ["recovery=mask"],
    "fedrecon": [],
    "oracle": ["recovery=oracle"],
    "complete data": [
        "recovery=mask",
        *(f"missing.{split}={{level: none}}" for split in ("train", "validation", "test")),
    ],
}
SEEDS = (0, 1, 2, 3, 4)
"""At level `site` the masks of seed 0 leave m1 at no site at all, which happens in about 2% of draws."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """One run of the matrix."""

    setting: str
    method: str
    seed: int

    def directory(self, out: Path) -> Path:
        return out / f"{self.setting}-{self.method.replace(' ', '_')}-{self.seed}"

    def run(self, out: Path) -> None:
        """Run the cell unless it is complete."""
        directory = self.directory(out)
        if (directory / "result.json").exists() and self.result(out)["status"] == "completed":
            return
        keys = [*METHODS[self.method], f"seed={self.seed}", "engine.workers=1"]
        call = [
            sys.executable,
            "-m",
            "server.cli",
            "run",
            f"configs/polydigits/{self.setting}.yaml",
            "--out",
            str(directory),
        ]
        done = subprocess.run(
            [*call, *(part for key in keys for part in ("--set", key))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"{self}: exit {done.returncode} {done.stderr.strip()}", file=sys.stderr, flush=True)

    def result(self, out: Path) -> dict:
        return json.loads((self.directory(out) / "result.json").read_text(encoding="utf-8"))


def hits(cells: list[Cell], out: Path) -> tuple[np.ndarray, np.ndarray]:
    """(share of right answers [seeds, groups] over all masks of a test digit, class of each group [groups])."""
    rows, classes = [], np.zeros(0)
    for cell in cells:
        frame = pq.read_table(cell.directory(out) / "predictions.parquet").to_pandas()
        found = (
            frame.assign(hit=frame["label"] == frame["predicted"])
            .groupby("group")
            .agg({"hit": "mean", "label": "first"})
        )
        rows.append(found["hit"].to_numpy())
        classes = found["label"].to_numpy()
    return np.stack(rows), classes


def scores(right: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(accuracy, UAR) [resamples] of the mean over seeds; ``weights`` [resamples, groups] counts how often a digit is
    drawn."""
    mean = right.mean(axis=0)
    recalls = [
        (weights * mean)[:, classes == c].sum(1) / np.maximum(weights[:, classes == c].sum(1), 1) for c in set(classes)
    ]
    return (weights @ mean) / weights.sum(axis=1), np.mean(recalls, axis=0)


def resamples(groups: int) -> np.ndarray:
    """[RESAMPLES + 1, groups]: first the sample itself, then bootstrap draws."""
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return np.concatenate([np.ones((1, groups)), draws])


def shown(values: np.ndarray) -> str:
    """Estimate and 95% interval, in per cent."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return f"{100 * values[0]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table(setting: str, out: Path, seeds: list[int]) -> str:
    """The Markdown table of one setting; differences to ``mask`` are paired by digit and seed."""
    lines = [
        "| recovery | accuracy % | UAR % | sd over seeds | UAR - mask | MB down | MB up | train s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base, classes = hits([Cell(setting, "mask", seed) for seed in seeds], out)
    weights = resamples(len(classes))
    for method in METHODS:
        cells = [Cell(setting, method, seed) for seed in seeds]
        right, classes = hits(cells, out)
        accuracy, uar = scores(right, classes, weights)
        gain = uar - scores(base, classes, weights)[1]
        results = [cell.result(out) for cell in cells]
        spread = np.std([result["test"]["uar"] for result in results], ddof=1) if len(results) > 1 else 0.0
        numbers = [np.mean([result[key] for result in results]) for key in ("bytes_down", "bytes_up", "train_seconds")]
        lines.append(
            f"| {method} | {shown(accuracy)} | {shown(uar)} | {100 * spread:.1f} | {shown(gain)} "
            f"| {numbers[0] / 1e6:.1f} | {numbers[1] / 1e6:.1f} | {numbers[2]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    out, seeds = chosen.out.resolve(), chosen.seeds
    cells = [Cell(setting, method, seed) for seed in seeds for setting in SETTINGS for method in METHODS]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(lambda cell: cell.run(out), cells))
    for setting in SETTINGS:
        print(f"\n### {setting}\n\n{table(setting, out, seeds)}")


if __name__ == "__main__":
    main()

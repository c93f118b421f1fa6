"""Where the scores of docs/RESULTS.md come from: recall by class and, coupled, by block, from cells' predictions.

``python docs/results/breakdown.py runs/recoveries`` prints the tables of docs/RESULTS.md, "Where it comes from", as
Markdown: means over the seeds that all methods of a table have. Cells without ``predictions.parquet`` are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from server.sweep.record import State, TrialRecord, read_sweep

METHODS = (
    "mask",
    "zero",
    "fedrecon",
    "without GGFS",
    "moving generators",
    "mask and dropout",
    "complete site alone",
    "oracle",
)
Frame = pd.DataFrame
Measure = Callable[[Frame], dict[str, float]]
"""The predictions of one cell -> column of a table -> per cent."""


def uar(rows: Frame) -> float:
    """The mean recall of the classes that ``rows`` hold, in per cent."""
    return float(100 * (rows["label"] == rows["predicted"]).groupby(rows["label"]).mean().mean())


def shown(rows: Frame) -> pd.DataFrame:
    """Bool [N, M]: which modalities a sample shows, in the order of the data set."""
    found = rows.filter(like="has_")
    return found.rename(columns=lambda name: name.removeprefix("has_"))


def by_block(rows: Frame) -> dict[str, float]:
    """Of coupled samples, each of which shows one modality: UAR where its class is of the block that sites of this
    modality hold (matched) or of another (crossed), and how many crossed ones are taken for a class of that block."""
    names = list(shown(rows).columns)
    blocks = np.array_split(np.arange(rows["label"].max() + 1), len(names))
    block_of = np.repeat(np.arange(len(names)), [len(block) for block in blocks])
    source = shown(rows).to_numpy().argmax(axis=1)
    matched = block_of[rows["label"]] == source
    taken = block_of[rows.loc[~matched, "predicted"]] == source[~matched]
    return {"matched": uar(rows[matched]), "crossed": uar(rows[~matched]), "taken for matched": 100 * taken.mean()}


def by_class(rows: Frame) -> dict[str, float]:
    """Recall of each class."""
    right = (rows["label"] == rows["predicted"]).groupby(rows["label"]).mean()
    return {f"class {label}": float(100 * share) for label, share in right.items()}


def table(trials: list[TrialRecord], measure: Measure) -> Iterator[str]:
    """Markdown: a row per method, over the seeds that all of them have."""
    found = {(trial.labels["method"], trial.labels["seed"]): read(trial.directory) for trial in trials}
    methods = [name for name in METHODS if any(method == name for method, _ in found)]
    seeds = sorted(set.intersection(*({seed for other, seed in found if other == name} for name in methods)), key=int)
    rows = {name: pd.DataFrame([measure(found[name, seed]) for seed in seeds]).mean() for name in methods}
    columns = list(next(iter(rows.values())).index)
    yield f"| method (seeds {', '.join(seeds)}) | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name, values in rows.items():
        yield f"| `{name}` | {' | '.join(f'{values[column]:.1f}' for column in columns)} |"


def read(directory: Path) -> Frame:
    """What the cell said of every test sample that shows something."""
    rows = pd.read_parquet(directory / "predictions.parquet")
    return rows[shown(rows).any(axis=1)]


def main() -> None:
    """Print every table that the cells at hand allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--methods", nargs="+", help="only these")
    chosen = parser.parse_args()
    asked = [
        trial for trial in read_sweep(chosen.sweep).trials if trial.labels["method"] in (chosen.methods or METHODS)
    ]
    complete = [trial for trial in asked if trial.status is State.COMPLETE]
    trials = [trial for trial in complete if (trial.directory / "predictions.parquet").exists()]
    if len(trials) < len(complete):
        told = "complete cells have no predictions.parquet and are left out"
        print(f"note: {len(complete) - len(trials)} {told}", file=sys.stderr)
    for setting, own in groupby(trials, key=lambda trial: trial.labels["setting"]):
        measures = [by_block, by_class] if setting.endswith("coupled") else [by_class]
        kept = list(own)
        for measure in measures:
            print(f"\n### {setting}: {measure.__name__.replace('_', ' ')}\n")
            print("\n".join(table(kept, measure)))


if __name__ == "__main__":
    main()

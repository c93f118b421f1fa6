"""Where the scores of docs/RESULTS.md come from: recall by class and, in coupled settings, by block of classes.

``python docs/results/breakdown.py SWEEP`` prints the tables of docs/RESULTS.md, "Where it comes from", as Markdown, for
a sweep directory or a packed sweep: means over the seeds that all methods of a table have. Trials without predictions
are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from server.analysis.predictions import Predictions
from server.analysis.trials import load_sweep

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
"""The predictions of one trial -> column of a table -> per cent."""


def uar(rows: Frame) -> float:
    """The mean recall of the classes in ``rows``, in per cent."""
    return float(100 * (rows["label"] == rows["predicted"]).groupby(rows["label"]).mean().mean())


def shown(rows: Frame) -> pd.DataFrame:
    """Bool [N, M]: which modalities each sample has, in the order of the data set."""
    found = rows.filter(like="has_")
    return found.rename(columns=lambda name: name.removeprefix("has_"))


def by_block(rows: Frame) -> dict[str, float]:
    """UAR of coupled samples, each of which has one modality: those whose class is of the block that sites with this
    modality hold (matched), the others (crossed), and how many crossed ones are predicted as a class of that block."""
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


def table(found: dict[tuple[str, str], Frame], measure: Measure) -> Iterator[str]:
    """Markdown: a row per method, over the seeds that all of them have. ``found``: (method, seed) -> predictions."""
    methods = [name for name in METHODS if any(method == name for method, _ in found)]
    seeds = sorted(set.intersection(*({seed for other, seed in found if other == name} for name in methods)), key=int)
    rows = {name: pd.DataFrame([measure(found[name, seed]) for seed in seeds]).mean() for name in methods}
    columns = list(next(iter(rows.values())).index)
    yield f"| method (seeds {', '.join(seeds)}) | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name, values in rows.items():
        yield f"| `{name}` | {' | '.join(f'{values[column]:.1f}' for column in columns)} |"


def main() -> None:
    """Print every table that the predictions allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="only these")
    chosen = parser.parse_args()
    sweep = load_sweep(chosen.sweep)
    predictions = Predictions(sweep)
    complete = sweep.complete[sweep.complete["params.method"].isin(chosen.methods)]
    lacking = 0
    for setting, own in complete.groupby("params.setting", observed=True):
        found = {}
        for trial in map(str, own.index):
            rows = predictions.table(trial)
            if rows is None:
                lacking += 1
                continue
            frame, labels = rows.to_pandas(), sweep.labels(trial)
            found[labels["method"], labels["seed"]] = frame[shown(frame).any(axis=1)]
        for measure in ([by_block, by_class] if str(setting).endswith("coupled") else [by_class]) if found else []:
            print(f"\n### {setting}: {measure.__name__.replace('_', ' ')}\n")
            print("\n".join(table(found, measure)))
    if lacking:
        print(f"note: {lacking} complete trials have no predictions and are left out", file=sys.stderr)


if __name__ == "__main__":
    main()

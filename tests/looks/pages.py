"""The reports of a run and of a sweep, made from fixed inputs, with the same bytes at any place and time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.report.run import write_report
from server.report.sweep import write_sweep_report
from tests.helpers.reports import SITES, write_run
from tests.helpers.sweeps import Labels, right_with, write_results

PAGES = ("run", "sweep")
RATES, SEEDS = ["0.3", "0.6"], ["1", "2"]
TABLE = {"rows": ["recovery"], "columns": ["rate"], "metrics": ["accuracy"], "baseline": {"recovery": "mask"}}
CHANCE = {"zero": 0.2, "mask": 0.7}
BEST = 0.8
MISSING = {"recovery": "zero", "rate": "0.6", "seed": "2"}
FAILED = "mask-0.6-2"


def write_pages(folder: Path, name: str = "fedrecon") -> dict[str, Path]:
    """Write both reports below ``folder``; return page -> path. ``name`` is the name of the run and of its sites, and
    of a method of the sweep."""
    run = write_run(folder / "run", [f"{name}-{site}" for site in range(SITES)], name)
    return {"run": write_report(run), "sweep": write_sweep_report(_write_sweep(folder / "sweep", name))}


def _write_sweep(folder: Path, name: str) -> Path:
    """Write twelve trials, of which one failed and one is missing."""
    axes = {"recovery": [*CHANCE, name], "rate": RATES, "seed": SEEDS}
    write_results(folder, axes, _predictions, **TABLE)
    for cell in (folder / "cells").iterdir():
        chance = CHANCE.get(cell.name.split("-")[0], BEST)
        lines = [{"round": turn, "split": "validation", "accuracy": chance * turn / (turn + 1)} for turn in range(1, 6)]
        (cell / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    failed = {"status": "failed", "error": "no room left\nTraceback"}
    (folder / "cells" / FAILED / "result.json").write_text(json.dumps(failed))
    return folder


def _predictions(labels: Labels) -> NDArray[np.int64] | None:
    return None if labels == MISSING else right_with(CHANCE.get(labels["recovery"], BEST), int(labels["seed"]))

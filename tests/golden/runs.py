"""The golden runs: a tiny run of each recovery with ``fedavg``, and of each other strategy with ``fedrecon``, through
the real apps and engine. A strategy that refuses ``fedrecon`` runs with ``mask``.

``golden.json`` maps each run to its numbers. Write the numbers of a new method, or renew them after a change that is
meant to change them, look at the difference, and commit it:

    python -m tests.golden.runs              # all
    python -m tests.golden.runs fedrecon     # those of one recovery or strategy
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fedrecon_core.config import parse
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from tests.helpers import runs
from tests.helpers.contract_support import accepted
from tests.helpers.toy import toy_settings

discover((*CORE_PACKAGES, "strategies"))

GOLDEN = Path(__file__).with_name("golden.json")
RENEW = "python -m tests.golden.runs"


def key(recovery: str, strategy: str) -> str:
    """The key of a run in ``golden.json``."""
    return f"{recovery}-{strategy}"


def read_golden() -> dict[str, dict[str, Any]]:
    """Key of a run -> its numbers."""
    found: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


def write_golden(found: dict[str, dict[str, Any]]) -> None:
    """Write ``golden.json``, a line per round and split."""
    blocks = []
    for name, run in sorted(found.items()):
        lines = ",\n".join(f"   {json.dumps(line)}" for line in run["metrics"])
        sizes = f'"bytes_down": {run["bytes_down"]}, "bytes_up": {run["bytes_up"]}'
        blocks.append(f' "{name}": {{\n  {sizes},\n  "metrics": [\n{lines}\n  ]\n }}')
    GOLDEN.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def settings(recovery: str, strategy: str) -> dict[str, Any]:
    """Three rounds of three sites that lack different modalities; steps large enough to learn in three rounds."""
    slow, fast = ({"epochs": 2, "batch": 8, "lr": rate} for rate in (0.005, 0.02))
    raw = toy_settings(
        {"name": recovery},
        {"name": strategy},
        rounds=3,
        sites={"count": 3},
        data={"name": "toy", "held_out": 96, "scale": "standard"},
        missing={
            "train": {"level": "sample", "rate": 0.4},
            "validation": {"level": "sample", "rate": 0.5},
            "test": {"level": "sample", "rate": 0.5, "draws": 4},
        },
        evaluate={"select": "accuracy"},
        local={"generator": slow, "mapping": slow, "task": fast},
    )
    return accepted(raw, lr=0.2)


def pairs() -> list[tuple[str, str]]:
    """(recovery, strategy) of each golden run."""
    found = [(recovery, "fedavg") for recovery in RECOVERIES.names()]
    for strategy in STRATEGIES.names():
        if strategy == "fedavg":
            continue
        try:
            parse(settings("fedrecon", strategy))
        except ConfigError:
            found.append(("mask", strategy))
        else:
            found.append(("fedrecon", strategy))
    return found


def numbers(recovery: str, strategy: str, folder: Path) -> dict[str, Any]:
    """Run once in ``folder`` and return what does not depend on the clock."""
    directory = runs.run(folder, settings(recovery, strategy))
    lines, result = runs.lines(directory, "metrics.jsonl"), runs.result(directory)
    return {
        "metrics": runs.without_clock(lines),
        "bytes_down": result["bytes_down"],
        "bytes_up": result["bytes_up"],
    }


def renew(names: list[str]) -> None:
    """Write the numbers of the runs of the methods ``names`` (none: all), and drop those of former methods."""
    golden = read_golden()
    for recovery, strategy in pairs():
        if not names or {recovery, strategy} & set(names):
            with tempfile.TemporaryDirectory() as folder:
                golden[key(recovery, strategy)] = numbers(recovery, strategy, Path(folder))
    current = {key(*pair) for pair in pairs()}
    write_golden({name: found for name, found in golden.items() if name in current})


if __name__ == "__main__":
    renew(sys.argv[1:])

"""The golden runs: one tiny run for each recovery under each strategy that takes it, through the real apps and engine.

Renew the numbers after a change that is meant to change them, look at the difference, and commit it:

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
from tests.helpers.contract_support import accepted, run_inprocess
from tests.helpers.federation import toy_settings

discover((*CORE_PACKAGES, "strategies"))

FOLDER = Path(__file__).parent
RENEW = "python -m tests.golden.runs"


def golden_file(recovery: str, strategy: str) -> Path:
    """Where the numbers of one run are kept."""
    return FOLDER / f"{recovery}-{strategy}.json"


def settings(recovery: str, strategy: str) -> dict[str, Any]:
    """Three rounds of three sites that lack different modalities; steps large enough to learn something in them."""
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


def composes(recovery: str, strategy: str) -> bool:
    """Whether the strategy takes the recovery."""
    try:
        parse(settings(recovery, strategy))
    except ConfigError:
        return False
    return True


PAIRS = [(one, other) for one in RECOVERIES.names() for other in STRATEGIES.names() if composes(one, other)]


def numbers(recovery: str, strategy: str, folder: Path) -> dict[str, Any]:
    """Run once in ``folder`` and read what does not depend on the clock."""
    run = run_inprocess(folder, settings(recovery, strategy))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    return {
        "metrics": [{k: v for k, v in line.items() if not k.endswith("_seconds")} for line in lines],
        "bytes_down": result["bytes_down"],
        "bytes_up": result["bytes_up"],
    }


def renew(words: list[str]) -> None:
    """Write the numbers of the runs that ``words`` name (none: all), and drop files of runs that are no more."""
    for recovery, strategy in PAIRS:
        if not words or {recovery, strategy} & set(words):
            with tempfile.TemporaryDirectory() as folder:
                found = numbers(recovery, strategy, Path(folder))
            golden_file(recovery, strategy).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for path in set(FOLDER.glob("*.json")) - {golden_file(*pair) for pair in PAIRS}:
        path.unlink()


if __name__ == "__main__":
    renew(sys.argv[1:])

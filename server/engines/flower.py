"""Flower's own programs, called as a user would call them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon_core.errors import RunError

COMMAND_SECONDS = 30.0

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",  # results depend on the number of threads
    "PYTHONUNBUFFERED": "1",
}


def program(name: str) -> str:
    """The program ``name`` beside this interpreter; ``RunError`` if this environment does not have it."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise RunError(f"{path} does not exist; install flwr[simulation] in the environment of {sys.executable}")
    return str(path)


def ask(*arguments: str, surroundings: Mapping[str, Any]) -> str:
    """The standard output of a short ``flwr`` command; ``RunError`` with its words if it fails."""
    options: dict[str, Any] = {**surroundings, "capture_output": True, "text": True, "timeout": COMMAND_SECONDS}
    try:
        done = subprocess.run([program("flwr"), *arguments], **options, check=False)
    except subprocess.TimeoutExpired:
        raise RunError(f"'flwr {arguments[0]}' did not answer in {COMMAND_SECONDS:g} s") from None
    if done.returncode != 0:
        raise RunError(f"'flwr {arguments[0]}' failed: {one_line(done.stderr + done.stdout)}")
    return str(done.stdout)


def write_run_config(path: Path, values: Mapping[str, bool | float | int | str]) -> str:
    """``values`` as the TOML file that ``flwr run --run-config`` takes; its path. Flower splits the values of a
    command line by a pattern that odd paths break."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def one_line(text: str) -> str:
    """``text`` without line breaks."""
    return " ".join(text.split())

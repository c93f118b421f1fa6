"""Run Flower's own commands, and carry a ServerApp's error through the status of its run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon_core.errors import FedReconError, RunError, UsageError

COMMAND_SECONDS = 30.0
RAISED = "ServerApp failed with exception:"
"""The beginning of the details that Flower stores for a run whose ServerApp raised an exception."""
USAGE = f" (exit code {UsageError.exit_code})"
"""The mark that ``reportable`` adds to a ``UsageError``."""

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",  # results depend on the number of threads
    "PYTHONUNBUFFERED": "1",
}


def program(name: str) -> str:
    """Path of the program ``name`` in the environment of this interpreter; ``RunError`` if it is not installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise RunError(f"{path} does not exist; install flwr[simulation] in the environment of {sys.executable}")
    return str(path)


def ask(*arguments: str, surroundings: Mapping[str, Any], seconds: float = COMMAND_SECONDS) -> str:
    """Run a short ``flwr`` command and return its standard output.

    ``surroundings`` are the options of ``subprocess.run`` for its environment and working directory. Raises
    ``RunError`` with its output if it fails or takes longer than ``seconds``.
    """
    options: dict[str, Any] = {**surroundings, "capture_output": True, "text": True, "timeout": seconds}
    try:
        done = subprocess.run([program("flwr"), *arguments], **options, check=False)
    except subprocess.TimeoutExpired:
        raise RunError(f"'flwr {arguments[0]}' did not answer in {seconds:g} s") from None
    if done.returncode != 0:
        raise RunError(f"'flwr {arguments[0]}' failed: {one_line(done.stderr + done.stdout)}")
    return str(done.stdout)


def write_run_config(path: Path, values: Mapping[str, bool | float | int | str]) -> str:
    """Write ``values`` as the TOML file for ``flwr run --run-config`` and return its path. (Flower does not split
    ``key=value`` options correctly if a path in them has special characters.)"""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def one_line(text: str) -> str:
    """``text`` without line breaks."""
    return " ".join(text.split())


def reportable(error: Exception) -> FedReconError:
    """Convert ``error`` into one whose text includes its exit code: Flower stores only the text of a ServerApp's
    exception. ``raised`` is the inverse."""
    if not isinstance(error, FedReconError):
        return RunError(f"{type(error).__name__}: {error}")
    return UsageError(f"{error}{USAGE}") if error.exit_code == UsageError.exit_code else RunError(str(error))


def raised(details: str) -> FedReconError | None:
    """The exception of a run's ServerApp with its exit code, from the details of the run's status; ``None`` if the run
    ended otherwise."""
    text = one_line(details)
    reason = text.removeprefix(RAISED).strip()
    if reason in (text, ""):
        return None
    return UsageError(reason.removesuffix(USAGE)) if reason.endswith(USAGE) else RunError(reason)


def reason(details: str) -> str:
    """The details of a run's status in one line; empty if there are none, for which Flower writes ``N/A``."""
    return str(raised(details) or one_line(details).removeprefix("N/A"))

"""Flower's own programs, called as a user would call them, and what a run's status keeps of its end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon_core.errors import FedReconError, RunError, UsageError

COMMAND_SECONDS = 30.0
_RAISED = "ServerApp failed with exception:"
_USAGE = f" (exit code {UsageError.exit_code})"

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


def ask(*arguments: str, surroundings: Mapping[str, Any], seconds: float = COMMAND_SECONDS) -> str:
    """The standard output of a short ``flwr`` command; ``RunError`` with its words if it fails or takes ``seconds``."""
    options: dict[str, Any] = {**surroundings, "capture_output": True, "text": True, "timeout": seconds}
    try:
        done = subprocess.run([program("flwr"), *arguments], **options, check=False)
    except subprocess.TimeoutExpired:
        raise RunError(f"'flwr {arguments[0]}' did not answer in {seconds:g} s") from None
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


def reportable(error: Exception) -> FedReconError:
    """``error`` such that its text alone holds what a command needs: Flower keeps no more of a ServerApp's exception.
    ``raised`` reads it back."""
    if not isinstance(error, FedReconError):
        return RunError(f"{type(error).__name__}: {error}")
    return UsageError(f"{error}{_USAGE}") if error.exit_code == UsageError.exit_code else RunError(str(error))


def raised(details: str) -> FedReconError | None:
    """What the ServerApp of a run raised, with its exit code, from the details of the run's status; ``None`` if the run
    ended otherwise."""
    words = one_line(details)
    reason = words.removeprefix(_RAISED).strip()
    if reason in (words, ""):
        return None
    return UsageError(reason.removesuffix(_USAGE)) if reason.endswith(_USAGE) else RunError(reason)


def told(details: str) -> str:
    """The details of a run's status in one line; Flower writes ``N/A`` where there are none."""
    return str(raised(details) or one_line(details).removeprefix("N/A"))

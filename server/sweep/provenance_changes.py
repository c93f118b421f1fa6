"""How a complete cell was made otherwise than it would be made today."""

from __future__ import annotations

from collections.abc import Iterator

from server.runs.provenance import Change, changes, making_here
from server.sweep.store import SweepDirectory
from server.sweep.trials import Trial


def origins(directory: SweepDirectory, trial: Trial) -> Iterator[str]:
    """In words, each difference: by other code, on another device than this machine would use, with another PyTorch or
    another root. What a cell does not say of itself is no difference."""
    for change in changes(directory.manifest_of(trial), making_here(directory.device_of(trial))):
        if change.what in _WORDS:
            yield _WORDS[change.what](change)
    root = directory.root_of(trial)
    if root != trial.config.data.root:
        yield f"with data.root {root or 'unset'}, and today's is {trial.config.data.root or 'unset'}"


def _by_code(change: Change) -> str:
    codes = f"({change.then[:8]}) than today's ({str(change.now)[:8]})"
    return f"by other code {codes}, which may not repeat them bit by bit"


def _on_device(change: Change) -> str:
    return f"on {change.then}, and {f'{change.now} would be used' if change.now else 'there is none'} here today"


def _with_torch(change: Change) -> str:
    return f"with PyTorch {change.then}, and today's is {change.now}"


_WORDS = {"code": _by_code, "device": _on_device, "torch": _with_torch}

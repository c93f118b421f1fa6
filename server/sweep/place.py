"""Where the directory of a sweep may lie: in no folder that holds something else."""

from __future__ import annotations

from pathlib import Path

from fedrecon_core.errors import DataError, UsageError
from server.commands.path_kinds import Kind, kind_of
from server.sweep.record import SWEEP, TRIALS, read_sweep

OTHERWISE = "choose another, or leave it out (default runs/<name>)"


def refuse_place(path: Path) -> None:
    """``UsageError`` where a sweep in the folder ``path`` would overwrite what it did not make, or lie in the middle of
    it. What an interrupted start left is no hindrance, nor is a damaged list of cells where these stand beside it."""
    if not path.is_dir():
        return
    try:
        found = _stranger(path)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be read: {error.strerror}; {OTHERWISE}") from None
    if found:
        raise UsageError(f"--out {path}: expected a new or empty folder, or a sweep's, found {found}; {OTHERWISE}")


def _stranger(path: Path) -> str:
    """What in the folder ``path`` is not of a sweep; empty where nothing is."""
    if kind_of(path / SWEEP) is Kind.SWEEP_CONFIG:
        return f"{SWEEP} in it, the config of a sweep, which the list of cells would overwrite"
    if (path / SWEEP).exists():
        return (
            "" if (path / TRIALS).is_dir() or _is_list(path) else f"a {SWEEP} in it that `fedrecon sweep` did not make"
        )
    if any((path / TRIALS).glob("*/config.yaml")):  # it has lost its list
        return ""
    others = sorted(one.name for one in path.iterdir() if not _is_of_a_start(one))
    return f"{others[0]} in it" if others else ""


def _is_list(path: Path) -> bool:
    try:
        read_sweep(path)
    except DataError:
        return False
    return True


def _is_of_a_start(path: Path) -> bool:
    """Whether it may be there before the list of cells is, or is hidden."""
    empty = path.name == TRIALS and path.is_dir() and not any(path.iterdir())
    return empty or path.name == "run.lock" or path.name.startswith(".")

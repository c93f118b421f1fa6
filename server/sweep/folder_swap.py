"""A folder that takes another one's place, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from fedrecon_core.files import sync


def exchange(path: Path, fill: Callable[[Path], object]) -> None:
    """Have the folder ``path`` be what ``fill`` writes into a new one beside it.

    Whatever interrupts this leaves the old folder or the new one, whole: the old one steps aside when the new one is
    on the disk, and goes only when that has its name (``finish_exchanges`` does the rest). What ``fill`` and the disk
    raise passes through; then the old one is where it was.
    """
    arrived, old = _beside(path)
    _finish(path)
    try:
        fill(arrived)
        for item in (*arrived.rglob("*"), arrived):
            sync(item)
        path.rename(old)
        try:
            arrived.rename(path)
        except OSError:
            old.rename(path)
            raise
    except BaseException:
        _finish(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_exchanges(folder: Path) -> None:
    """End what was interrupted in ``folder``. Whoever calls this is alone in exchanging folders there."""
    for ending in ("old", "partial"):
        for aside in folder.glob(f".*.{ending}"):
            _finish(aside.with_name(aside.name.removeprefix(".").removesuffix(f".{ending}")))


def _finish(path: Path) -> None:
    """Where the place is free and the old folder stands aside, the new one is whole and gets the place, or else the old
    one gets it back. What then stands beside it has had its time, or is half of something."""
    arrived, old = _beside(path)
    if old.exists() and not path.exists():
        (arrived if arrived.exists() else old).rename(path)
    for leftover in (old, arrived):
        shutil.rmtree(leftover, ignore_errors=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Where the new folder is made, and where the old one waits."""
    return path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")

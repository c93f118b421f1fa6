"""A folder that takes another one's place, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from fedrecon_core.disk import sync


def exchange(path: Path, fill: Callable[[Path], object]) -> None:
    """Have the folder ``path`` be what ``fill`` writes into a new one beside it.

    Whatever interrupts this leaves the old folder or the new one, whole: the old one steps aside and goes only when the
    new one has its name (``finish_exchanges`` does the rest). What ``fill`` and the disk raise passes through; then
    the old one is where it was.
    """
    arrived, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    for leftover in (arrived, old) if path.exists() else (arrived,):
        shutil.rmtree(leftover, ignore_errors=True)
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
        shutil.rmtree(arrived, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_exchanges(folder: Path) -> None:
    """End what was interrupted in ``folder``: an old folder whose place is taken goes, one whose place is free goes
    back to it, and what never had the place goes. Whoever calls this is alone in exchanging folders there."""
    for old in folder.glob(".*.old"):
        path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)
    for arrived in folder.glob(".*.partial"):
        shutil.rmtree(arrived, ignore_errors=True)

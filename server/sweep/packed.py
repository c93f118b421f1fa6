"""A run directory as bytes, so that it can travel to the machine that works on it and back."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path

from server.sweep.record import LOG
from server.sweep.trial_run import run_trial

PASSING = ("checkpoints", "sites", "run.lock")
"""What a complete run leaves that nothing needs any more."""


def pack(folder: Path, without: Collection[str] = ()) -> bytes:
    """A tar of all that is in ``folder``, but for the entries named in ``without``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in without:
                archive.add(path, arcname=path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Write what ``pack`` made into ``folder``, over what has the same names there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")


def run_packed(data: bytes) -> bytes:
    """Run the packed run directory ``data``, begun or not, in a folder of this machine's own; what became of it.

    A failed run keeps its checkpoints: the next try goes on from them, on whatever machine.
    """
    with tempfile.TemporaryDirectory(prefix="fedrecon-") as folder:
        path = Path(folder) / "run"
        unpack(data, path)
        completed = run_trial(path, path / LOG)
        return pack(path, PASSING if completed else ("run.lock",))

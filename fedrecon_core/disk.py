"""Files that survive a crash, and the words for those that could not be written."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

DISK_ERRORS = (OSError, SafetensorError)
"""What writing or reading a file of tensors raises."""


def sync(path: Path) -> None:
    """Wait until the file or folder is on the disk, before it takes the name by which it is found."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``path``, wait until it is on the disk, then give it the name: a crash or a
    full disk leaves the old file or the new one, never half of one. Rights of an old file stay as they were. The file
    beside it has a name of its own, so that of several processes that write ``path`` at once each writes whole.

    Raises what ``write`` and the disk raise (``DISK_ERRORS``); only a crash leaves the other file (``sweep``).
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        write(partial)
        if path.exists():
            shutil.copymode(path, partial)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """``replace_file`` with ``text`` in UTF-8."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is what a crash left of a file that was being written."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def sweep(folder: Path) -> None:
    """Remove what a crash left half written. Whoever calls this is alone in writing into ``folder``."""
    for path in folder.iterdir():
        if is_leftover(path):
            path.unlink()


def reason(error: Exception) -> str:
    """Why a file could not be written or read, in the system's words where it has some."""
    return getattr(error, "strerror", None) or str(error)

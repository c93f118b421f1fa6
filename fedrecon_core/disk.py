"""Files that survive a crash, and the words for those that could not be written."""

from __future__ import annotations

import os
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


def reason(error: Exception) -> str:
    """Why a file could not be written or read, in the system's words where it has some."""
    return getattr(error, "strerror", None) or str(error)

"""How a report's files are written: whole or not at all, by however many at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedrecon_core.errors import RunError
from fedrecon_core.files import reason, replace_file


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """``replace_file``; ``RunError`` where the file cannot be written, and then the old one is as it was."""
    try:
        replace_file(path, write)
    except OSError as error:
        told = "make room, or mend the rights of its folder"
        raise RunError(f"cannot write {path}: {reason(error)}; {told}") from None

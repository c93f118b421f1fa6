"""Files and paths: writes that survive a crash, reads that report what is wrong, and paths as users type them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from fedrecon_core.errors import ConfigError, DataError

DISK_ERRORS = (OSError, SafetensorError)
"""Exceptions that reading or writing a file of tensors may raise."""


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write ``path`` atomically: a crash or a full disk leaves the old file or the new one, never a part of it.

    ``write`` fills a temporary file in the same folder, which is then synced and renamed. The temporary name is unique,
    so several processes may write ``path`` at once. The permissions of an existing file are kept.

    Raises the errors of ``write`` and of the disk (``DISK_ERRORS``). Only a crash leaves the temporary file behind
    (``remove_leftovers``).
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
    """Write ``text`` in UTF-8 with ``replace_file``."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the folder ``path`` by one that ``write`` fills: an interruption leaves the old or the new one, complete.

    The new folder is written and synced next to the old one. The old one is then renamed, the new one gets its name,
    and only then is the old one deleted. ``finish_folder_replacements`` completes what was interrupted. Raises the
    errors of ``write`` and of the disk; the old folder is then still in place.
    """
    new, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    _finish_replacement(path)
    try:
        write(new)
        for item in (*new.rglob("*"), new):
            sync(item)
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    except BaseException:
        _finish_replacement(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_folder_replacements(folder: Path) -> None:
    """Complete or undo interrupted calls of ``replace_folder`` in ``folder``. No other call may be running there."""
    for suffix in ("old", "partial"):
        for leftover in folder.glob(f".*.{suffix}"):
            _finish_replacement(leftover.with_name(leftover.name.removeprefix(".").removesuffix(f".{suffix}")))


def _finish_replacement(path: Path) -> None:
    """Finish one replacement. If ``path`` is missing and its old folder exists, a new folder is complete and gets the
    name; without a new folder, the old one gets its name back. All other leftovers are deleted."""
    new, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        (new if new.exists() else old).rename(path)
    for leftover in (old, new):
        shutil.rmtree(leftover, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is the temporary file of a write that crashed."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of crashed writes. No other process may be writing into ``folder``."""
    for path in folder.iterdir():
        if is_leftover(path):
            path.unlink()


def reason(error: Exception) -> str:
    """The reason why a file could not be read or written: the system's message if there is one."""
    return getattr(error, "strerror", None) or str(error)


def user_path(text: str | Path, base: Path, key: str) -> Path:
    """Resolve a path as a user typed it: ``~`` is expanded, a relative path is resolved against ``base``.

    Raises ``ConfigError`` naming ``key`` for an unknown user or a name that the system does not allow.
    """
    try:
        path = (base / Path(text).expanduser()).resolve()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        found = "".join(c if c.isprintable() else "?" for c in str(text))[:80]
        raise ConfigError(f"{key}: expected a path, found '{found}': {reason(error)}") from None
    return path


def digest_of(path: Path, algorithm: str) -> str:
    """The hex digest of a file; ``DataError`` if it cannot be read, or is a folder."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, found: {reason(error)}") from None


def inside(folder: Path, name: str) -> Path:
    """``folder / name``; ``DataError`` if it points outside the folder by ``..``, an absolute path or a link."""
    path = folder / name
    try:
        stays = path.resolve().is_relative_to(folder.resolve())
    except (ValueError, RuntimeError, OSError):  # a NUL byte, a loop of links
        stays = False
    if not stays:
        raise DataError(f"{folder}: expected a path inside this folder, found '{name}', which leads out of it")
    return path


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file; ``DataError`` naming the first byte that is not valid in ``encoding``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a text file, found {error.strerror}") from None
    except ValueError:
        shown = str(path).replace("\0", "?")
        raise DataError(f"{shown}: expected the path of a text file, found a NUL character in it") from None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        hint = "save it as UTF-8, or name its encoding (encoding: cp1252, latin-1, ...)"
        raise DataError(f"{path}: expected text in {encoding}, found {found}; {hint}") from None
    except (LookupError, ValueError):  # ValueError: a NUL in the name, or a codec that decodes nothing
        expected = "encoding: expected one that Python knows (utf-8, cp1252)"
        raise DataError(f"{path}: {expected}, found '{encoding}'") from None

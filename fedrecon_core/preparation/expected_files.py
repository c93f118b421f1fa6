"""The files that a raw data set must consist of; each missing or damaged file is reported before anything is read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedrecon_core.errors import DataError
from fedrecon_core.files import reason

CHECKSUMS = "SHA256SUMS"
"""An optional list of checksums in the raw folder, in the format of ``sha256sum``; the files are checked against it."""
_NAMES: dict[str, tuple[str, Callable[[str], str]]] = {
    "md5": ("MD5", lambda digest: digest),
    "sha256": ("SHA-256", lambda digest: f"{digest[:12]}..."),
}
"""Algorithm -> its common name, and the part of a digest that messages show."""


@dataclass(frozen=True)
class ExpectedFile:
    """One file (or, with a wildcard, at least ``least`` files) in the raw folder.

    ``what`` describes the file and its source for messages. ``md5`` is the checksum of its publisher, if known.
    """

    path: str
    what: str
    least: int = 1
    md5: str | None = None


def file_faults(raw: Path, expected: Iterable[ExpectedFile]) -> list[str]:
    """The faults of the files ``expected`` in ``raw``: missing ones, and those with a wrong checksum."""
    if not raw.is_dir():
        return [f"--raw {raw}: expected a folder, found {'a file' if raw.exists() else 'nothing'}"]
    return [*(fault for one in expected for fault in _faults(raw, one)), *_listed(raw)]


def _faults(raw: Path, one: ExpectedFile) -> Iterator[str]:
    found = sorted(raw.glob(one.path)) if "*" in one.path else [path for path in (raw / one.path,) if path.exists()]
    if len(found) < one.least:
        count = "none" if not found else f"{len(found)} of at least {one.least}"
        yield f"{raw / one.path}: expected {one.what}, found {count}"
    elif one.md5 is not None:
        yield from _other(found[0], "md5", one.md5, one.what)


def _other(file: Path, algorithm: str, digest: str, what: str) -> Iterator[str]:
    """The fault of a file that has a different digest, or cannot be read."""
    try:
        found = digest_of(file, algorithm)
    except DataError as error:
        yield str(error)
        return
    if found != digest:
        kind, short = _NAMES[algorithm]
        yield f"{file}: expected the {kind} {short(digest)} ({what}), found {short(found)}; fetch it again"


def _listed(raw: Path) -> Iterator[str]:
    """Faults of the files that ``SHA256SUMS`` lists."""
    path = raw / CHECKSUMS
    lines = read_text(path).splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-fA-F]{64})[ \t]+\*?(.+)", line.strip())
        if match is None:
            yield f"{path}: line {number}: expected a SHA-256 and a file name, found '{line[:60]}'"
            continue
        digest, file = match[1].lower(), inside(raw, match[2])
        if not file.exists():
            yield f"{file}: expected the file that {CHECKSUMS} lists, found none"
        else:
            yield from _other(file, "sha256", digest, CHECKSUMS)


def digest_of(path: Path, algorithm: str) -> str:
    """The hex digest of a file; ``DataError`` where it cannot be read, or is a folder."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, found: {reason(error)}") from None


def inside(folder: Path, name: str) -> Path:
    """``folder / name``; ``DataError`` where it leads out of the folder by ``..``, an absolute path or a link."""
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
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        told = "save it as UTF-8, or name its encoding (encoding: cp1252, latin-1, ...)"
        raise DataError(f"{path}: expected text in {encoding}, found {found}; {told}") from None
    except (LookupError, ValueError):  # ValueError: a NUL in the name, or a codec that decodes nothing
        raise DataError(
            f"{path}: encoding: expected one that Python knows (utf-8, cp1252), found '{encoding}'"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: expected a text file, found {error.strerror}") from None

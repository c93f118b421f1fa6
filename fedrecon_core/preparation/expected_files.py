"""The files that a raw data set must consist of; each missing or damaged file is reported before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedrecon_core.errors import DataError
from fedrecon_core.files import digest_of, inside, read_text

CHECKSUMS = "SHA256SUMS"
"""An optional list of checksums in the raw folder, in the format of ``sha256sum``; the files are checked against it."""


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
    faults: list[str | None] = []
    for file in expected:
        found = sorted(raw.glob(file.path)) if "*" in file.path else [raw / file.path]
        found = [path for path in found if path.exists()]
        if len(found) < file.least:
            count = f"{len(found)} of at least {file.least}" if found else "none"
            faults.append(f"{raw / file.path}: expected {file.what}, found {count}")
        elif file.md5 is not None:
            faults.append(_checksum_fault(found[0], "md5", file.md5, file.what))
    sums = raw / CHECKSUMS
    lines = read_text(sums).splitlines() if sums.is_file() else []
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-fA-F]{64})[ \t]+\*?(.+)", line.strip())
        if match is None:
            faults.append(f"{sums}: line {number}: expected a SHA-256 and a file name, found '{line[:60]}'")
        elif not (path := inside(raw, match[2])).exists():
            faults.append(f"{path}: expected the file that {CHECKSUMS} lists, found none")
        else:
            faults.append(_checksum_fault(path, "sha256", match[1].lower(), CHECKSUMS))
    return [fault for fault in faults if fault is not None]


def _checksum_fault(file: Path, algorithm: str, digest: str, what: str) -> str | None:
    """The fault of a file that has a different digest, or cannot be read."""
    try:
        found = digest_of(file, algorithm)
    except DataError as error:
        return str(error)
    if found == digest:
        return None
    if algorithm == "md5":
        return f"{file}: expected the MD5 {digest} ({what}), found {found}; fetch it again"
    return f"{file}: expected the SHA-256 {digest[:12]}... ({what}), found {found[:12]}...; fetch it again"

"""On-disk cache of features by content: a file that was read once is never read again, under any name.

An entry is a line with a SHA-256 followed by a NumPy file. The hash covers the entry's name and the file, so damaged or
renamed entries are detected and computed again. Only the owner can read entries, since they are as confidential as the
data.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrecon_core.errors import DataError
from fedrecon_core.files import reason, replace_file
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/fedrecon/features``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedrecon" / "features"


@dataclass(frozen=True)
class CachedFeature:
    """A feature whose arrays are cached in ``folder`` if it is ``costly``: one file per content, named by the hash of
    content and feature."""

    feature: Feature
    folder: Path

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """Extract only new contents, in one batch; read the others. Raises ``DataError`` if the folder is not
        writable."""
        if not self.feature.costly:
            return self.feature.extract(contents)
        fingerprint = self.feature.fingerprint().encode()
        digests = [hashlib.sha256(fingerprint + b"\0" + content.data).hexdigest() for content in contents]
        files = [self.folder / str(self.feature.params.name) / d[:2] / f"{d[2:]}.feature" for d in digests]
        arrays = {file: array for file in set(files) if (array := _load(file)) is not None}
        new = {file: content for file, content in zip(files, contents, strict=True) if file not in arrays}
        extracted = self.feature.extract(list(new.values())) if new else []
        for file, array in zip(new, extracted, strict=True):
            arrays[file] = np.ascontiguousarray(array, dtype=np.float32)
            self._save(file, arrays[file])
        return [arrays[file] for file in files]

    def _save(self, file: Path, array: FloatArray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        entry = _digest(file, buffer.getvalue()) + b"\n" + buffer.getvalue()

        def write(partial: Path) -> None:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
            with os.fdopen(handle, "wb") as opened:
                opened.write(entry)

        try:
            self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for folder in (file.parents[1], file.parent):
                folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            file.unlink(missing_ok=True)  # a new file would inherit the permissions of a damaged one
            replace_file(file, write)
        except OSError as error:
            advice = "fix that, or set XDG_CACHE_HOME to another folder"
            raise DataError(f"{file.parent}: the feature cache cannot be written: {reason(error)}; {advice}") from None


def _load(file: Path) -> FloatArray | None:
    """The array of an entry; None if there is none, or if it is damaged."""
    try:
        digest, _, stored = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != _digest(file, stored):
        return None
    array: FloatArray = np.load(io.BytesIO(stored), allow_pickle=False)
    return array


def _digest(file: Path, stored: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + b"\0" + stored).hexdigest().encode()

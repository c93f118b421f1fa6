"""Features by the hash of what they are made of: a file that was read once is never read again, under any name.

An entry is a line with a SHA-256 and then a NumPy file. The hash is over the entry's name and that file, so that what
was damaged, or put under another name, is seen and made anew. Only its owner can read it, since it tells of patients as
the data do.
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
    """``feature``; where it is ``costly``, with its arrays kept in ``folder``, one file per content under the hash of
    content and feature."""

    feature: Feature
    folder: Path

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """As the feature's own; only contents that are new go through it, all of them in one batch. ``DataError`` where
        the folder cannot be written."""
        if not self.feature.costly:
            return self.feature.extract(contents)
        files = [self._file(content) for content in contents]
        known = {file: array for file in set(files) if (array := _load(file)) is not None}
        new = {file: content for file, content in zip(files, contents, strict=True) if file not in known}
        made = self.feature.extract(list(new.values())) if new else []
        for file, array in zip(new, made, strict=True):
            known[file] = np.ascontiguousarray(array, dtype=np.float32)
            self._keep(file, known[file])
        return [known[file] for file in files]

    def _file(self, content: RawItem) -> Path:
        digest = hashlib.sha256(self.feature.fingerprint().encode() + b"\0" + content.data).hexdigest()
        return self.folder / str(self.feature.params.name) / digest[:2] / f"{digest[2:]}.feature"

    def _keep(self, file: Path, array: FloatArray) -> None:
        try:
            self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for folder in (file.parents[1], file.parent):
                folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            file.unlink(missing_ok=True)  # a damaged entry, whose rights the new one would take over
            replace_file(file, lambda partial: _save(partial, _entry(file, array)))
        except OSError as error:
            told = "mend that, or set XDG_CACHE_HOME to another folder"
            raise DataError(
                f"{file.parent}: the cache of features cannot be written: {reason(error)}; {told}"
            ) from None


def _load(file: Path) -> FloatArray | None:
    """The array of an entry; None where there is none, or one that is not as it was written: it is made anew."""
    try:
        digest, _, stored = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != _digest(file, stored):
        return None
    array: FloatArray = np.load(io.BytesIO(stored), allow_pickle=False)
    return array


def _entry(file: Path, array: FloatArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return _digest(file, buffer.getvalue()) + b"\n" + buffer.getvalue()


def _digest(file: Path, stored: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + b"\0" + stored).hexdigest().encode()


def _save(path: Path, entry: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(handle, "wb") as file:
        file.write(entry)

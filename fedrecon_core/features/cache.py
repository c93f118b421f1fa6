"""Features by the hash of what they are made of: a file that was read once is never read again, under any name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrecon_core.disk import reason, replace_file
from fedrecon_core.errors import DataError
from fedrecon_core.features.base import Content, Feature, FloatArray


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/fedrecon/features``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedrecon" / "features"


@dataclass(frozen=True)
class CachedFeature:
    """``feature`` with its arrays kept in ``folder``, one file per content under the hash of content and feature."""

    feature: Feature
    folder: Path

    def extract(self, contents: Sequence[Content]) -> list[FloatArray]:
        """As the feature's own; only contents that are new go through it, all of them in one batch. ``DataError`` where
        the folder cannot be written."""
        files = [self._file(content) for content in contents]
        known = {file: array for file in set(files) if (array := _load(file)) is not None}
        new = {file: content for file, content in zip(files, contents, strict=True) if file not in known}
        made = self.feature.extract(list(new.values())) if new else []
        for file, array in zip(new, made, strict=True):
            known[file] = np.ascontiguousarray(array, dtype=np.float32)
            _keep(file, known[file])
        return [known[file] for file in files]

    def _file(self, content: Content) -> Path:
        digest = hashlib.sha256(self.feature.fingerprint().encode() + b"\0" + content.data).hexdigest()
        return self.folder / str(self.feature.params.name) / digest[:2] / f"{digest[2:]}.npy"


def _load(file: Path) -> FloatArray | None:
    """The array of a file; None where there is none, or one that another hand left in pieces: it is made anew."""
    try:
        array: FloatArray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array


def _keep(file: Path, array: FloatArray) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda partial: _save(partial, array))
    except OSError as error:
        told = "mend that, or set XDG_CACHE_HOME to another folder"
        raise DataError(f"{file.parent}: the cache of features cannot be written: {reason(error)}; {told}") from None


def _save(path: Path, array: FloatArray) -> None:
    with path.open("wb") as file:
        np.save(file, array)

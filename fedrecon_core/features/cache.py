"""Features by the hash of what they are made of: a file that was read once is never read again, under any name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrecon_core.disk import replace_file
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
        """As the feature's own; only contents that are new go through it, all of them in one batch."""
        files = [self._file(content) for content in contents]
        new = {file: content for file, content in zip(files, contents, strict=True) if not file.exists()}
        if new:
            for file, array in zip(new, self.feature.extract(list(new.values())), strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(file, lambda partial, array=array: _save(partial, array))  # type: ignore[misc]
        return [np.load(file, allow_pickle=False) for file in files]

    def _file(self, content: Content) -> Path:
        digest = hashlib.sha256(self.feature.fingerprint().encode() + b"\0" + content.data).hexdigest()
        return self.folder / str(self.feature.params.name) / digest[:2] / f"{digest[2:]}.npy"


def _save(path: Path, array: FloatArray) -> None:
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array, dtype=np.float32))

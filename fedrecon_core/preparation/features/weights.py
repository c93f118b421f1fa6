"""Features with weights: local files alone, known by their hash."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import Feature


class WeightedFeature(Feature):
    """Base of a feature whose ``Params`` have ``weights``: where its files lie, None for the user's cache of them.
    Nothing is ever downloaded."""

    @abstractmethod
    def locate(self) -> Sequence[Path]:
        """The files that decide the arrays, in a fixed order; ``DataError`` naming the one that is not there, where it
        belongs and how to get it."""

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """What ``locate`` found."""
        return tuple(self.locate())

    def fingerprint(self) -> str:
        """Version, keys, libraries and contents of the files; where these lie decides nothing."""
        keys = self.params.model_dump_json(exclude={"weights"})
        digests = (f"{path.name} {sha256_of(path)}" for path in self.files)
        return " ".join((str(self.version), keys, *self.editions(), *digests))

    def require(self) -> None:
        """The libraries, and that the files are there; what is in them is read with the first content."""
        super().require()
        _ = self.files


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, computed once per process and again when size or time of the file change."""
    try:
        state = path.stat()
        return _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: expected a file of weights that can be read, found {error.strerror}") from None


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

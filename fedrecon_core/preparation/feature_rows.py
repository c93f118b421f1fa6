"""Rows of a modality that are computed from files or texts by a feature, which the options of a preparation choose."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fedrecon_core.config import Params
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.preparation.features.base import Feature, RawItem
from fedrecon_core.preparation.features.cache import CachedFeature
from fedrecon_core.preparation.raw_dataset import RowReader
from fedrecon_core.registry import FEATURES

SHOWN = 5
"""Number of files that a message lists."""


def make_feature(medium: str, keys: Params) -> Feature:
    """The feature that ``keys`` choose; ``ConfigError`` naming the key ``medium`` if it reads another medium."""
    cls: type[Feature] = FEATURES.get(keys.name)
    if cls.medium != medium:
        expected = f"expected a feature of {medium}, found '{keys.name}'"
        raise ConfigError(f"{medium}: {expected}, which is one of {cls.medium}; choose another")
    return cls(keys)


def rows_through(feature: Feature, cache: Path, content: Callable[[int], RawItem]) -> RowReader:
    """Make a reader of rows that ``feature`` computes and caches in the folder ``cache``.

    ``content`` returns the raw item of a sample by its position. Raises ``DataError`` at once, before any item is read,
    if the feature lacks a library or its weights.
    """
    feature.require()
    cached = CachedFeature(feature, cache)
    return lambda samples: cached.extract([content(sample) for sample in samples.tolist()])


def file_item(path: Path) -> RawItem:
    """The content of a file; ``DataError`` if it cannot be read."""
    try:
        return RawItem(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, found {error.strerror}") from None


def text_item(text: str, place: str) -> RawItem:
    """A text in UTF-8; ``place`` is its location for messages."""
    return RawItem(text.encode("utf-8"), place)


def file_states(raw: Path, files: Iterable[Path]) -> Iterator[str]:
    """A line per file in ``raw`` by which changes are detected: relative path, size in bytes and modification time in
    nanoseconds, or "none" for a missing file."""
    for file in files:
        try:
            state = file.stat()
        except OSError:
            yield f"{file.relative_to(raw)} none"
        else:
            yield f"{file.relative_to(raw)} {state.st_size} {state.st_mtime_ns}"


def first_few(names: Sequence[object]) -> str:
    """The first few of ``names`` and the number of the others, for a message."""
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def rows_version(features: Iterable[Feature], contents: Iterable[object]) -> str:
    """SHA-256 over everything that determines the rows, apart from the samples: the features with their options and
    weights, and ``contents`` (options, texts, ``file_states`` of the files)."""
    sha = hashlib.sha256()
    for part in (*(feature.fingerprint() for feature in features), *contents):
        sha.update(f"{part}\0".encode())
    return sha.hexdigest()

"""The modalities of a table: numbers of its columns, files that its cells name, texts of a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from os import stat_result
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from fedrecon_core.data.dataset import BoolArray
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.files import reason, user_path
from fedrecon_core.preparation.expected_files import inside, read_text
from fedrecon_core.preparation.feature_rows import file_item, rows_through, rows_version, text_item
from fedrecon_core.preparation.features.base import Feature, RawItem
from fedrecon_core.preparation.importing.mapping import COLUMN, Files, Mapping, Modality, Vector, Words
from fedrecon_core.preparation.importing.table import Table
from fedrecon_core.preparation.raw_dataset import RowReader
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec


@dataclass(frozen=True)
class Column:
    """One modality of the table: which rows have it (bool [N]), how rows are read, and what else decides them."""

    spec: ModalitySpec
    present: BoolArray
    read: RowReader
    ragged: bool = False
    version: str = ""


@dataclass(frozen=True)
class Source:
    """A table with all that its modalities are read by."""

    table: Table
    mapping: Mapping
    cache: Path


def column_of(source: Source, name: str) -> Column:
    """The modality ``name`` of the mapping; ``DataError`` or ``ConfigError`` naming a cell, a file or a key at fault.
    Files are looked for, and read only later."""
    keys = source.mapping.modalities[name]
    return _READERS[type(keys)](source, name, keys)


def _vector(source: Source, name: str, keys: Vector) -> Column:
    values = np.stack([source.table.numbers(column) for column in keys.columns], axis=1)
    spec = ModalitySpec(name=name, kind="vector", shape=(len(keys.columns),)).model_copy(update=keys.given)
    present = np.isnan(values).sum(axis=1) == 0
    return Column(spec, present, lambda samples: list(values[samples]))


def _words(source: Source, name: str, keys: Words) -> Column:
    table, feature = source.table, _feature(keys.feature)
    if feature.medium != "text":
        expected = f"expected a feature of text, found '{keys.feature.name}'"
        raise ConfigError(f"modalities.{name}.feature: {expected}, which is one of {feature.medium}")
    texts = table[keys.text]
    present = np.array([bool(text) for text in texts], dtype=np.bool_)
    return _featured(
        _Contents(source, name, keys, present),
        feature,
        lambda row: text_item(texts[row], f"{table.path}: {table.place(row)}, column '{keys.text}'"),
    )


def _files(source: Source, name: str, keys: Files) -> Column:
    feature = _feature(keys.feature)
    folder = user_path(source.mapping.folder, source.table.path.parent, "folder")
    if not folder.is_dir():
        raise DataError(f"folder: expected the folder of the files of '{name}', found none at {folder}")
    paths = [_path(source.table, row, keys.files, folder) for row in range(len(source.table))]
    stats = [_stat(path) if path is not None else None for path in paths]
    absent = [str(path) for path, stat in zip(paths, stats, strict=True) if path is not None and stat is None]
    if absent and keys.missing == "refuse":
        raise _lacking(name, absent)
    present = np.array([stat is not None for stat in stats], dtype=np.bool_)
    read = _reader(feature, source.mapping.encoding)
    known = [f"{path} {s.st_size} {s.st_mtime_ns}" for path, s in zip(paths, stats, strict=True) if s is not None]
    return _featured(_Contents(source, name, keys, present, known), feature, lambda row: read(paths[row] or folder))


def _path(table: Table, row: int, template: str, folder: Path) -> Path | None:
    """The path of a row's file; None where a cell of it is empty."""
    cells = {column: table[column][row] for column in COLUMN.findall(template)}
    if not all(cells.values()):
        return None
    try:
        return inside(folder, COLUMN.sub(lambda match: cells[match[1]], template))
    except (DataError, ValueError) as error:  # ValueError: a character that no path has
        raise table.fault(row, ", ".join(cells), str(error)) from None


def _stat(path: Path) -> stat_result | None:
    """Of the file at ``path``; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, found: {reason(error)}") from None
    return found if S_ISREG(found.st_mode) else None


def _lacking(name: str, absent: Sequence[str]) -> DataError:
    first = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    told = f"add them, empty their cells, or set modalities.{name}.missing: allow, which takes them as really missing"
    found = f"expected the files that the table names, found none for {len(absent)} rows: {first}"
    return DataError(f"modality '{name}': {found}; {told}")


def _feature(keys: Any) -> Feature:
    cls: Any = FEATURES.get(keys.name)
    feature: Feature = cls(keys)
    return feature


def _reader(feature: Feature, encoding: str) -> Callable[[Path], RawItem]:
    """How a file becomes a content; a text may have another encoding than a content's."""
    if feature.medium != "text":
        return file_item
    return lambda path: text_item(read_text(path, encoding), str(path))


@dataclass(frozen=True)
class _Contents:
    """Which rows (bool [N]) a feature is taken of, and what is known of their contents before they are read."""

    source: Source
    name: str
    keys: Modality
    present: BoolArray
    known: Iterable[str] = field(default=())


def _featured(contents: _Contents, feature: Feature, content: Callable[[int], RawItem]) -> Column:
    spec = feature.modality(contents.name).model_copy(update=contents.keys.given)
    read = rows_through(feature, contents.source.cache, content)
    return Column(spec, contents.present, read, feature.ragged, rows_version([feature], contents.known))


_READERS: dict[type[Modality], Callable[[Source, str, Any], Column]] = {Vector: _vector, Files: _files, Words: _words}

"""The modalities of an imported table: numbers in columns, files that cells name, or texts in a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import numpy as np

from fedrecon_core.data.dataset import BoolArray
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.files import inside, read_text, reason, user_path
from fedrecon_core.preparation.feature_rows import file_item, rows_through, rows_version, text_item
from fedrecon_core.preparation.features.base import Feature, RawItem
from fedrecon_core.preparation.importing.mapping import COLUMN, Files, Mapping, Vector, Words
from fedrecon_core.preparation.importing.table import Table
from fedrecon_core.preparation.raw_dataset import RowReader
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec


@dataclass(frozen=True)
class ImportedModality:
    """A modality of the table. ``present`` bool [N]: which rows of the table have it; ``read`` reads its rows;
    ``version`` identifies everything else that determines them."""

    spec: ModalitySpec
    present: BoolArray
    read: RowReader
    ragged: bool = False
    version: str = ""


@dataclass(frozen=True)
class Source:
    """A table with its mapping and the folder of computed features."""

    table: Table
    mapping: Mapping
    cache: Path


def import_modality(source: Source, name: str) -> ImportedModality:
    """The modality ``name`` of the mapping; ``DataError`` or ``ConfigError`` naming a cell, a file or a key at fault.
    Files are checked for existence, but read later."""
    keys = source.mapping.modalities[name]
    if isinstance(keys, Files):
        return _from_files(source, name, keys)
    if isinstance(keys, Words):
        return _from_texts(source, name, keys)
    assert isinstance(keys, Vector)
    values = np.stack([source.table.numbers(column) for column in keys.columns], axis=1)
    spec = ModalitySpec(name=name, kind="vector", shape=(len(keys.columns),)).model_copy(update=keys.given)
    return ImportedModality(spec, np.isnan(values).sum(axis=1) == 0, lambda samples: list(values[samples]))


def _from_texts(source: Source, name: str, keys: Words) -> ImportedModality:
    table, feature = source.table, FEATURES.get(keys.feature.name)(keys.feature)
    if feature.medium != "text":
        expected = f"expected a feature of text, found '{keys.feature.name}'"
        raise ConfigError(f"modalities.{name}.feature: {expected}, which is one of {feature.medium}")
    texts = table[keys.text]
    present = np.array([bool(text) for text in texts], dtype=np.bool_)

    def item(row: int) -> RawItem:
        return text_item(texts[row], f"{table.path}: {table.place(row)}, column '{keys.text}'")

    return _through_feature(source, name, feature, present, item)


def _from_files(source: Source, name: str, keys: Files) -> ImportedModality:
    feature: Feature = FEATURES.get(keys.feature.name)(keys.feature)
    folder = user_path(source.mapping.folder, source.table.path.parent, "folder")
    if not folder.is_dir():
        raise DataError(f"folder: expected the folder of the files of '{name}', found none at {folder}")
    paths = [_row_path(source.table, row, keys.files, folder) for row in range(len(source.table))]
    states: list[str | None] = []
    absent: list[str] = []
    for path in paths:
        state = None
        if path is not None:
            try:
                found = path.stat()
                state = f"{path} {found.st_size} {found.st_mtime_ns}" if S_ISREG(found.st_mode) else None
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise DataError(f"{path}: expected a file that can be read, found: {reason(error)}") from None
            if state is None:
                absent.append(str(path))
        states.append(state)
    if absent and keys.missing == "refuse":
        listed = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise DataError(
            f"modality '{name}': expected the files that the table names, found none for {len(absent)} rows: {listed}; "
            f"add them, empty their cells, or set modalities.{name}.missing: allow, which treats them as missing data"
        )

    def item(row: int) -> RawItem:
        path = paths[row] or folder
        if feature.medium == "text":  # a file may have another encoding than a raw item
            return text_item(read_text(path, source.mapping.encoding), str(path))
        return file_item(path)

    present = np.array([state is not None for state in states], dtype=np.bool_)
    return _through_feature(source, name, feature, present, item, [state for state in states if state is not None])


def _row_path(table: Table, row: int, template: str, folder: Path) -> Path | None:
    """The path of a row's file; None where a cell that it names is empty."""
    cells = {column: table[column][row] for column in COLUMN.findall(template)}
    if not all(cells.values()):
        return None
    try:
        return inside(folder, COLUMN.sub(lambda match: cells[match[1]], template))
    except (DataError, ValueError) as error:  # ValueError: a character that a path cannot have
        raise table.fault(row, ", ".join(cells), str(error)) from None


def _through_feature(
    source: Source,
    name: str,
    feature: Feature,
    present: BoolArray,
    item: Callable[[int], RawItem],
    states: Iterable[str] = (),
) -> ImportedModality:
    """The modality that ``feature`` computes from the ``item`` of each row in ``present`` (bool [N]). ``states``
    identify the items without reading them."""
    spec = feature.modality(name).model_copy(update=source.mapping.modalities[name].given)
    read = rows_through(feature, source.cache, item)
    return ImportedModality(spec, present, read, feature.ragged, rows_version([feature], states))

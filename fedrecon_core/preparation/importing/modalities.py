"""The modalities of an imported table: numbers in columns, files that cells name, or texts in a column."""

from __future__ import annotations

from collections.abc import Sequence
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
    table, keys = source.table, source.mapping.modalities[name]
    if isinstance(keys, Vector):
        values = np.stack([table.numbers(column) for column in keys.columns], axis=1)
        spec = ModalitySpec(name=name, kind="vector", shape=(len(keys.columns),)).model_copy(update=keys.given)
        return ImportedModality(spec, np.isnan(values).sum(axis=1) == 0, lambda samples: list(values[samples]))
    assert isinstance(keys, Words | Files)
    feature: Feature = FEATURES.get(keys.feature.name)(keys.feature)
    if isinstance(keys, Words):
        if feature.medium != "text":
            expected = f"expected a feature of text, found '{keys.feature.name}'"
            raise ConfigError(f"modalities.{name}.feature: {expected}, which is one of {feature.medium}")
        column, texts = keys.text, table[keys.text]
        present = np.array([bool(text) for text in texts], dtype=np.bool_)
        states: list[str | None] = []
    else:
        paths = _file_paths(source, name, keys)
        states = _file_states(name, keys, paths)
        present = np.array([state is not None for state in states], dtype=np.bool_)

    def item(row: int) -> RawItem:
        if isinstance(keys, Words):
            return text_item(texts[row], f"{table.path}: {table.place(row)}, column '{column}'")
        path = paths[row]
        assert path is not None
        if feature.medium == "text":  # a file may have another encoding than a raw item
            return text_item(read_text(path, source.mapping.encoding), str(path))
        return file_item(path)

    return ImportedModality(
        spec=feature.modality(name).model_copy(update=keys.given),
        present=present,
        read=rows_through(feature, source.cache, item),
        ragged=feature.ragged,
        version=rows_version([feature], [state for state in states if state is not None]),
    )


def _file_paths(source: Source, name: str, keys: Files) -> list[Path | None]:
    """The path of each row's file; None if a cell that it names is empty."""
    table, parts = source.table, COLUMN.split(keys.files)  # texts and names of columns in turn
    folder = user_path(source.mapping.folder, table.path.parent, "folder")
    if not folder.is_dir():
        raise DataError(f"folder: expected the folder of the files of '{name}', found none at {folder}")
    paths: list[Path | None] = []
    for row in range(len(table)):
        cells = {column: table[column][row] for column in parts[1::2]}
        path = None
        if all(cells.values()):
            try:
                path = inside(folder, "".join(cells[p] if n % 2 else p for n, p in enumerate(parts)))
            except (DataError, ValueError) as error:  # ValueError: a character that a path cannot have
                raise table.fault(row, ", ".join(cells), str(error)) from None
        paths.append(path)
    return paths


def _file_states(name: str, keys: Files, paths: Sequence[Path | None]) -> list[str | None]:
    """Path, size and time of each file, by which changes are detected; None if it is missing and this is allowed."""
    states: list[str | None] = []
    for path in paths:
        state = None
        try:
            found = path.stat() if path is not None else None
            if found is not None and S_ISREG(found.st_mode):
                state = f"{path} {found.st_size} {found.st_mtime_ns}"
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise DataError(f"{path}: expected a file that can be read, found: {reason(error)}") from None
        states.append(state)
    missing = [str(path) for path, state in zip(paths, states, strict=True) if path is not None and state is None]
    if missing and keys.missing == "refuse":
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"modality '{name}': expected the files that the table names, found none for {len(missing)} rows: {listed}"
            f"; add them, empty their cells, or set modalities.{name}.missing: allow, which treats them as missing data"
        )
    return states

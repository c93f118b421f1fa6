"""The sites of a table and a mapping: one site folder, or one per value of the mapping's ``site`` column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import BoolArray, IntArray
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import digest_of
from fedrecon_core.preparation.importing.labels import labels_of
from fedrecon_core.preparation.importing.mapping import Mapping, Shares
from fedrecon_core.preparation.importing.modalities import Column, Source, column_of
from fedrecon_core.preparation.importing.table import Form, Table, codes, read_table
from fedrecon_core.preparation.raw_dataset import RawDataset, RowReader
from fedrecon_core.seeding import derive
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE, SPLITS, DatasetSpec


def read_sites(path: Path, mapping: Mapping, cache: Path) -> dict[str, RawDataset]:
    """Site -> raw_data of the table at ``path``; without a ``site`` column the only one is called ``.``.

    Raises ``DataError`` or ``ConfigError`` naming line and column of a fault. Files are looked for but not read.
    """
    form = Form(mapping.encoding, mapping.separator, mapping.decimal, mapping.empty)
    table = read_table(path, mapping.columns, form)
    classes, labels = labels_of(table, mapping.label, mapping.classes)
    columns = [column_of(Source(table, mapping, cache), name) for name in mapping.modalities]
    spec = DatasetSpec(
        name=mapping.name,
        modalities=tuple(column.spec for column in columns),
        classes=classes,
        target="multiclass" if labels.ndim == 1 else "multilabel",
    )
    whole = RawDataset(
        spec=spec,
        samples=_samples(table, mapping, labels, np.stack([column.present for column in columns], axis=1)),
        rows={column.spec.name: column.read for column in columns},
        ragged=frozenset(column.spec.name for column in columns if column.ragged),
        names=_names(table, mapping),
        version=_version(path, mapping, columns),
    )
    return {name: _part(whole, rows) for name, rows in _sites(table, mapping).items()}


def _names(table: Table, mapping: Mapping) -> Sequence[str]:
    places = [f"{table.path.name}, {table.unit} {place}" for place in table.places]
    return (
        [f"{name} ({place})" for name, place in zip(table[mapping.id], places, strict=True)] if mapping.id else places
    )


def _version(path: Path, mapping: Mapping, columns: Iterable[Column]) -> str:
    parts = [mapping.model_dump_json(), digest_of(path, "sha256"), *(column.version for column in columns)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# --- samples --------------------------------------------------------------------------------------------------------


def _samples(table: Table, mapping: Mapping, labels: IntArray, present: BoolArray) -> Samples:
    groups = codes(table.filled(mapping.group, "a group")) if mapping.group else np.arange(len(table))
    return Samples(
        ids=_ids(table, mapping.id) if mapping.id else np.arange(len(table)),
        labels=labels,
        split=_split(table, mapping, groups),
        cluster_ids=groups,
        present=present,
        natural_ids=codes(table.filled(mapping.natural, "a value")) if mapping.natural else groups,
    )


def _ids(table: Table, column: str) -> IntArray:
    seen: dict[str, int] = {}
    for row, text in enumerate(table.filled(column, "an id")):
        if text in seen:
            found = f"found '{text}' in {table.place(seen[text])} too"
            raise table.fault(row, column, f"expected each id once, {found}")
        seen[text] = row
    return codes(table[column])


def _split(table: Table, mapping: Mapping, groups: IntArray) -> IntArray:
    """int64 [N]: the split of each row, by its column or by shares."""
    if mapping.split is None:
        return _dealt(table, mapping, mapping.shares or Shares())
    column = mapping.split.column
    known = {name: place for place, split in enumerate(SPLITS) for name in getattr(mapping.split, split)}
    for row, text in enumerate(table.filled(column, "a split")):
        if text not in known:
            told = "name the column's words under split: train, validation and test"
            raise table.fault(row, column, f"expected {', '.join(known)}, found '{text}'; {told}")
    split = np.array([known[text] for text in table[column]], dtype=np.int64)
    if not (split == 0).any():
        raise DataError(f"{table.path}: column '{column}': expected some row of the split train, found none")
    if mapping.group is not None:
        _refuse_torn(table, mapping.group, groups, split)
    return split


def _refuse_torn(table: Table, column: str, groups: IntArray, split: IntArray) -> None:
    first: dict[int, int] = {}
    for row, (group, part) in enumerate(zip(groups.tolist(), split.tolist(), strict=True)):
        other = first.setdefault(group, row)
        if split[other] != part:
            found = f"found it in {SPLITS[part]} and, in {table.place(other)}, in {SPLITS[int(split[other])]}"
            raise table.fault(row, column, f"expected each group in one split, {found}; that leaks")


def _dealt(table: Table, mapping: Mapping, shares: Shares) -> IntArray:
    """int64 [N]: each group's split by a hash of its text, so that a patient is in the same one at every hospital, and
    stays there when the table grows; the shares hold on average over groups."""
    unit = mapping.group or mapping.id
    texts = table[unit] if unit else [str(row) for row in range(len(table))]
    wanted = {number: share for number, name in enumerate(SPLITS) if (share := getattr(shares, name)) > 0}
    borders = np.cumsum([*wanted.values()])[:-1]
    drawn = {text: derive(shares.seed, "import", mapping.name, text) / 2**63 for text in dict.fromkeys(texts)}
    split = np.array([*wanted])[np.searchsorted(borders, [drawn[text] for text in texts], side="right")]
    for number in wanted:
        if not (split == number).any():
            found = f"expected a group of samples for it, found none of {len(drawn)}"
            told = "set another seed or raise its share (the same for every site), or name the splits in a column"
            raise DataError(f"{table.path}: shares.{SPLITS[number]}: {found}; {told} (split:)")
    return split.astype(np.int64)


def _sites(table: Table, mapping: Mapping) -> dict[str, IntArray]:
    """Site -> its rows, sorted by name."""
    if mapping.site is None:
        return {".": np.arange(len(table))}
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(table.filled(mapping.site, "a site")):
        if not SITE_NAME.fullmatch(text):
            raise table.fault(row, mapping.site, f"expected a site's name ({SITE_NAME_RULE}), found '{text}'")
        rows.setdefault(text, []).append(row)
    _refuse_alike(table, mapping.site, rows)
    return {name: np.array(rows[name], dtype=np.int64) for name in sorted(rows)}


def _refuse_alike(table: Table, column: str, rows: dict[str, list[int]]) -> None:
    """Names become folders, which some disks tell apart by more than the case of letters."""
    first: dict[str, str] = {}
    for name, (row, *_) in rows.items():
        other = first.setdefault(name.lower(), name)
        if other != name:
            found = f"found '{name}' and, in {table.place(rows[other][0])}, '{other}'"
            raise table.fault(row, column, f"expected names of sites that differ in more than case, {found}")


def _part(whole: RawDataset, rows: IntArray) -> RawDataset:
    """The raw_data of some of its rows."""

    def reader(read: RowReader) -> RowReader:
        return lambda samples: read(rows[samples])

    taken = whole.samples
    return replace(
        whole,
        samples=Samples(
            ids=taken.ids[rows],
            labels=taken.labels[rows],
            split=taken.split[rows],
            cluster_ids=taken.cluster_ids[rows],
            present=taken.present[rows],
            natural_ids=taken.natural_ids[rows],
        ),
        rows={name: reader(read) for name, read in whole.rows.items()},
        names=[whole.names[row] for row in rows.tolist()],
    )

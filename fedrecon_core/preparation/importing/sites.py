"""The sites of an imported table: one site folder, or one per value of the mapping's ``site`` column."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.errors import DataError
from fedrecon_core.files import digest_of
from fedrecon_core.preparation.importing.mapping import Label, Mapping, OneLabel, Shares
from fedrecon_core.preparation.importing.modalities import Source, import_modality
from fedrecon_core.preparation.importing.table import Form, Table, codes, read_table
from fedrecon_core.preparation.raw_dataset import RawDataset, RowReader
from fedrecon_core.seeding import derive
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE, SPLITS, DatasetSpec

Classes = tuple[str, ...]


def read_sites(path: Path, mapping: Mapping, cache: Path) -> dict[str, RawDataset]:
    """Site -> raw data of the table at ``path``; without a ``site`` column the only site is called ``.``.

    Raises ``DataError`` or ``ConfigError`` naming line and column of a fault. Files are checked for existence but not
    read.
    """
    table = read_table(path, mapping.columns, Form(mapping.encoding, mapping.separator, mapping.decimal, mapping.empty))
    rows = np.arange(len(table))
    classes, labels = _read_labels(table, mapping.label, mapping.classes)
    modalities = [import_modality(Source(table, mapping, cache), name) for name in mapping.modalities]
    groups = codes(table.filled(mapping.group, "a group")) if mapping.group else rows
    if mapping.id:
        first: dict[str, int] = {}
        for row, text in enumerate(table.filled(mapping.id, "an id")):
            if (other := first.setdefault(text, row)) != row:
                found = f"found '{text}' in {table.place(other)} too"
                raise table.fault(row, mapping.id, f"expected each id once, {found}")
    samples = Samples(
        ids=codes(table[mapping.id]) if mapping.id else rows,
        labels=labels,
        split=_read_split(table, mapping, groups),
        cluster_ids=groups,
        present=np.stack([modality.present for modality in modalities], axis=1),
        natural_ids=codes(table.filled(mapping.natural, "a value")) if mapping.natural else groups,
    )
    spec = DatasetSpec(
        name=mapping.name,
        modalities=tuple(modality.spec for modality in modalities),
        classes=classes,
        target="multiclass" if labels.ndim == 1 else "multilabel",
    )
    places = [f"{table.path.name}, {table.unit} {place}" for place in table.places]
    if mapping.id:
        places = [f"{name} ({place})" for name, place in zip(table[mapping.id], places, strict=True)]
    version = [mapping.model_dump_json(), digest_of(path, "sha256"), *(modality.version for modality in modalities)]
    whole = RawDataset(
        spec=spec,
        samples=samples,
        rows={modality.spec.name: modality.read for modality in modalities},
        ragged=frozenset(modality.spec.name for modality in modalities if modality.ragged),
        names=places,
        version=hashlib.sha256("\n".join(version).encode()).hexdigest(),
    )
    return _split_by_site(whole, table, mapping.site)


def _split_by_site(whole: RawDataset, table: Table, column: str | None) -> dict[str, RawDataset]:
    """Site -> the raw data of its rows, sorted by name. Names become folders, and some file systems ignore case."""
    if column is None:
        return {".": whole}
    rows: dict[str, list[int]] = {}
    first: dict[str, str] = {}
    for row, text in enumerate(table.filled(column, "a site")):
        if not SITE_NAME.fullmatch(text):
            raise table.fault(row, column, f"expected a site's name ({SITE_NAME_RULE}), found '{text}'")
        rows.setdefault(text, []).append(row)
    for name, (row, *_) in rows.items():
        other = first.setdefault(name.lower(), name)
        if other != name:
            found = f"found '{name}' and, in {table.place(rows[other][0])}, '{other}'"
            raise table.fault(row, column, f"expected names of sites that differ in more than case, {found}")

    def reader(read: RowReader, chosen: IntArray) -> RowReader:
        return lambda samples: read(chosen[samples])

    sites = {}
    for name in sorted(rows):
        chosen = np.array(rows[name], dtype=np.int64)
        columns = ("ids", "labels", "split", "cluster_ids", "present", "natural_ids")
        sites[name] = replace(
            whole,
            samples=Samples(**{key: getattr(whole.samples, key)[chosen] for key in columns}),
            rows={modality: reader(read, chosen) for modality, read in whole.rows.items()},
            names=[whole.names[row] for row in chosen.tolist()],
        )
    return sites


# --- samples --------------------------------------------------------------------------------------------------------


def _read_split(table: Table, mapping: Mapping, groups: IntArray) -> IntArray:
    """int64 [N]: the split of each row, by its column or by shares."""
    if mapping.split is None:
        return _draw_split(table, mapping, mapping.shares or Shares())
    column = mapping.split.column
    number_of = {value: number for number, name in enumerate(SPLITS) for value in getattr(mapping.split, name)}
    for row, text in enumerate(table.filled(column, "a split")):
        if text not in number_of:
            hint = "list the column's values under split: train, validation and test"
            raise table.fault(row, column, f"expected {', '.join(number_of)}, found '{text}'; {hint}")
    split = np.array([number_of[text] for text in table[column]], dtype=np.int64)
    if not (split == 0).any():
        raise DataError(f"{table.path}: column '{column}': expected a row of the split train, found none")
    if mapping.group is not None:
        first: dict[int, int] = {}
        for row, (group, part) in enumerate(zip(groups.tolist(), split.tolist(), strict=True)):
            other = first.setdefault(group, row)
            if split[other] != part:
                found = f"found it in {SPLITS[part]} and, in {table.place(other)}, in {SPLITS[int(split[other])]}"
                fault = f"expected each group in one split, {found}, which leaks held-out data into training"
                raise table.fault(row, mapping.group, fault)
    return split


def _draw_split(table: Table, mapping: Mapping, shares: Shares) -> IntArray:
    """int64 [N]: the split of each row, by a hash of its group's text. A patient is then in the same split at every
    hospital, and stays there when the table grows; the shares are reached on average over groups."""
    unit = mapping.group or mapping.id
    texts = table[unit] if unit else [str(row) for row in range(len(table))]
    wanted = {number: share for number, name in enumerate(SPLITS) if (share := getattr(shares, name)) > 0}
    borders = np.cumsum([*wanted.values()])[:-1]
    drawn = {text: derive(shares.seed, "import", mapping.name, text) / 2**63 for text in dict.fromkeys(texts)}
    split = np.array([*wanted])[np.searchsorted(borders, [drawn[text] for text in texts], side="right")]
    for number in wanted:
        if not (split == number).any():
            raise DataError(
                f"{table.path}: shares.{SPLITS[number]}: expected a group of samples for it, found none of "
                f"{len(drawn)}; set another seed or raise its share (the same for every site), or name the splits in a "
                "column (split:)"
            )
    return split.astype(np.int64)


# --- classes and labels: one column, a column of several classes, or a column of zeros and ones per class -------------


def _read_labels(table: Table, label: Label, given: Classes | None) -> tuple[Classes, IntArray]:
    """The classes (``given``, else those found), and the labels, int64 [N] or zeros and ones [N, C]."""
    if not isinstance(label, OneLabel):
        flags = []
        for column in label.names:
            table.filled(column, "0 or 1")
            values = table.numbers(column)
            wrong = ~np.isin(values, (0, 1))
            if wrong.any():
                row = int(wrong.argmax())
                raise table.fault(row, column, f"expected 0 or 1, found '{table[column][row]}'")
            flags.append(values.astype(np.int64))
        return given or label.names, np.stack(flags, axis=1)
    if label.separator is None:
        cells = [[text] for text in table.filled(label.column, "a class")]
    else:
        cells = [[part.strip() for part in text.split(label.separator)] for text in table[label.column]]
        cells = [[part for part in cell if part] for cell in cells]
    found = {text for cell in cells for text in cell}
    if given is None and len(found) < 2:
        raise DataError(
            f"{table.path}: column '{label.column}': expected at least two classes, found {len(found)}; "
            "if the table has only some of them, list all under classes:"
        )
    numbers = all(text.isdecimal() for text in found)
    classes = given or tuple(sorted(found, key=lambda text: (int(text) if numbers else 0, text)))
    number_of = {name: number for number, name in enumerate(classes)}
    positions = []
    for row, cell in enumerate(cells):
        for text in cell:
            if text not in number_of:
                expected = f"expected one of the classes ({', '.join(classes)})"
                raise table.fault(row, label.column, f"{expected}, found '{text}'")
        positions.append([number_of[text] for text in cell])
    if label.separator is None:
        return classes, np.array(positions, dtype=np.int64)[:, 0]
    labels = np.zeros((len(table), len(classes)), dtype=np.int64)
    for row, members in enumerate(positions):
        labels[row, members] = 1
    return classes, labels

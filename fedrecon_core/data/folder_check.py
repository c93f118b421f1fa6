"""Everything that can be wrong with a site folder, each in one line: what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import BoolArray, IntArray
from fedrecon_core.data.folder import (
    DESCRIPTION,
    SAMPLES,
    Description,
    Samples,
    array_file,
    files_of,
    offsets_file,
    read_description,
    record_of,
    seal,
    stamp,
)
from fedrecon_core.errors import DataError
from fedrecon_core.types import SPLITS, DatasetSpec, ModalitySpec

CHUNK = 4096
"""Rows that are looked at together for NaN and infinity."""


def check_folder(folder: Path) -> list[str]:
    """Every fault of the folder. Without any, a stamp is left, and the folder can be opened."""
    try:
        description = read_description(folder)
    except DataError as error:
        return [str(error)]
    faults = [*_file_faults(folder, description)]
    samples, found = read_samples(folder, description.spec)
    faults += [f"{folder / SAMPLES}: {fault}" for fault in found]
    if samples is not None:
        faults += _sample_faults(folder / SAMPLES, samples)
        for index, modality in enumerate(description.modalities):
            faults += _modality_faults(folder, modality, samples.present[:, index])
    if not faults and samples is not None:
        try:
            stamp(folder, samples)
        except OSError as error:
            faults.append(f"{folder}: the result of the check cannot be left there: {error.strerror}; make it writable")
    return faults


def seal_folder(folder: Path) -> list[str]:
    """Put size and SHA-256 of every file as it is now into ``dataset.yaml``, then check."""
    try:
        seal(folder, read_description(folder).spec)
    except DataError as error:
        return [str(error)]
    except OSError as error:
        return [f"{folder} cannot be sealed: {error.strerror}; {DESCRIPTION} is as it was"]
    return check_folder(folder)


def _file_faults(folder: Path, description: Description) -> Iterator[str]:
    there = files_of(folder)
    todo = "restore it, or take all files as they are with `fedrecon data seal`"
    for name in sorted({*there, *description.files}):
        known = description.files.get(name)
        if known is None:
            yield f"{folder / name}: expected its size and SHA-256 under files in dataset.yaml, found none; {todo}"
        elif name not in there:
            yield f"{folder / name}: expected a file of {known.bytes} bytes, found none; restore it"
        elif (found := record_of(folder / name)) != known:
            expected = f"expected {known.bytes} bytes with SHA-256 {known.sha256[:12]}..."
            yield f"{folder / name}: {expected}, found {found.bytes} bytes with {found.sha256[:12]}...; {todo}"


# --- samples --------------------------------------------------------------------------------------------------------


def read_samples(folder: Path, spec: DatasetSpec) -> tuple[Samples | None, list[str]]:
    """The table in ``samples.parquet``, or None and why it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / SAMPLES)
    except (OSError, pa.ArrowException) as error:
        return None, [f"expected a Parquet table of the samples, found {' '.join(str(error).split())}"]
    label = "int64" if spec.target == "multiclass" else "list<element: int64>"
    types = {"id": "int64", "label": label, "split": "string", "group": "int64"}
    types |= {"natural": "int64"} if "natural" in table.column_names else {}
    types |= {f"has_{name}": "bool" for name in spec.names}
    faults = list(
        _column_faults(
            {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}, types
        )
    )
    faults += [
        f"column {n}: expected a value in every row, found empty ones"
        for n in table.column_names
        if table[n].null_count
    ]
    if faults:
        return None, faults
    splits = table["split"].to_numpy()
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        return None, [f"column split: expected {', '.join(SPLITS)}, found {', '.join(map(repr, unknown))}"]
    split = np.array([SPLITS.index(name) for name in splits], dtype=np.int64)
    ids, groups = (table[name].to_numpy() for name in ("id", "group"))
    naturals = table["natural"].to_numpy() if "natural" in table.column_names else None
    labels, wrong = _labels(table["label"], spec)
    if wrong:
        return None, wrong
    has = [table[f"has_{name}"].to_numpy() for name in spec.names]
    present = np.stack(has, axis=1).astype(np.bool_) if len(table) else np.zeros((0, len(has)), dtype=np.bool_)
    return Samples(ids, labels, split, groups, present, naturals), []


def _labels(column: Any, spec: DatasetSpec) -> tuple[IntArray, list[str]]:
    """int64 [N], or zeros and ones [N, C] of a multilabel set, and what is wrong with them."""
    multilabel, classes = spec.target == "multilabel", len(spec.classes)
    values = np.asarray((column.combine_chunks().flatten() if multilabel else column).to_numpy(), dtype=np.int64)
    wrong = values[(values < 0) | (values >= classes)]
    if len(wrong):
        return values, [f"column label: expected 0 to {classes - 1} (the classes), found {_some(wrong)}"]
    if not multilabel:
        return values, []
    lengths = column.combine_chunks().value_lengths().to_numpy()
    labels = np.zeros((len(column), classes), dtype=np.int64)
    labels[np.repeat(np.arange(len(column)), lengths), values] = 1
    return labels, []


def _column_faults(found: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    for name, kind in expected.items():
        if name not in found:
            yield f"expected the column {name} ({kind}), found none"
        elif found[name].removeprefix("large_").replace("<item:", "<element:") != kind:
            yield f"column {name}: expected {kind}, found {found[name]}"
    for name in sorted(set(found) - set(expected)):
        yield f"expected no column {name}: dataset.yaml names no such modality"


def _sample_faults(path: Path, samples: Samples) -> Iterator[str]:
    train = samples.ids[samples.split == 0]
    repeated = np.unique(train)[np.unique(train, return_counts=True)[1] > 1]
    if len(repeated):
        yield f"{path}: column id: expected each training sample once, found {_some(repeated)} several times"
    pairs = np.unique(np.stack([samples.groups, samples.split]), axis=1)[0]
    torn = np.unique(pairs)[np.unique(pairs, return_counts=True)[1] > 1]
    if len(torn):
        yield f"{path}: column group: expected each group in one split, found {_some(torn)} in several; that leaks"


def _some(values: IntArray) -> str:
    shown = ", ".join(str(value) for value in np.unique(values)[:5])
    return f"{shown}{', ...' if len(np.unique(values)) > 5 else ''}"


# --- arrays ---------------------------------------------------------------------------------------------------------


def _modality_faults(folder: Path, modality: ModalitySpec, has: BoolArray) -> Iterator[str]:
    path, wanted = folder / array_file(modality.name), int(has.sum())
    if not path.exists():
        if wanted:
            yield f"{path}: expected {wanted} rows (has_{modality.name} in {SAMPLES}), found no file"
        return
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        yield f"{path}: expected an array in NumPy's format, found {' '.join(str(error).split())}"
        return
    borders = folder / offsets_file(modality.name)
    ragged = borders.exists()
    shape = modality.shape[1:] if ragged else modality.shape
    if array.dtype != np.float32 or array.shape[1:] != shape:
        yield f"{path}: expected float32 [rows, {_dims(shape)}], found {array.dtype} [{_dims(array.shape)}]"
        return
    if ragged:
        yield from _offset_faults(borders, modality, wanted, len(array))
    elif len(array) != wanted:
        yield f"{path}: expected {wanted} rows (has_{modality.name} in {SAMPLES}), found {len(array)}"
    bad = _not_finite(array)
    if bad is not None:
        yield f"{path}: expected finite numbers, found NaN or infinity in row {bad}; mark what is missing as absent"


def _offset_faults(path: Path, modality: ModalitySpec, wanted: int, steps: int) -> Iterator[str]:
    try:
        borders: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        yield f"{path}: expected an array in NumPy's format, found {' '.join(str(error).split())}"
        return
    if borders.dtype != np.int64 or borders.shape != (wanted + 1,):
        yield f"{path}: expected int64 [{wanted + 1}], found {borders.dtype} [{_dims(borders.shape)}]"
        return
    lengths = np.diff(borders)
    if borders[0] != 0 or borders[-1] != steps or (lengths <= 0).any():
        yield f"{path}: expected ascending borders from 0 to {steps}, found {borders[0]} to {borders[-1]} or empty ones"
    elif len(lengths) and lengths.max() > modality.shape[0]:
        yield f"{path}: expected at most {modality.shape[0]} steps ({modality.name}.shape), found {lengths.max()}"


def _not_finite(array: NDArray[np.float32]) -> int | None:
    """The first row with NaN or infinity."""
    for start in range(0, len(array), CHUNK):
        finite = np.isfinite(array[start : start + CHUNK]).reshape(len(array[start : start + CHUNK]), -1).all(axis=1)
        if not finite.all():
            return start + int(np.argmin(finite))
    return None


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))

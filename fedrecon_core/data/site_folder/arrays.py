"""Checks of the arrays of a site folder. Arrays are read in blocks and never mapped, because a mapped file that another
program shortens would end the process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.description import SAMPLES, array_file, offsets_file
from fedrecon_core.data.site_folder.files import (
    ArrayHeader,
    dims,
    open_file,
    printable,
    read_header,
    read_rows,
    reading,
)
from fedrecon_core.data.site_folder.samples import first_values
from fedrecon_core.errors import DataError
from fedrecon_core.types import ModalitySpec


def array_faults(folder: Path, modality: ModalitySpec, rows: IntArray, ids: IntArray) -> list[str]:
    """Every fault of a modality's files. ``rows`` int64 [N]: the row of each sample, or -1; ``ids`` int64 [N]."""
    path, count = folder / array_file(modality.name), int((rows >= 0).sum())
    try:
        offsets = _read_offsets(folder, modality, count)
        if os.path.lexists(path):
            return [*_value_faults(folder, modality, offsets, rows, ids)]
        if count or offsets is not None:
            return [f"{printable(path)}: expected {count} rows (has_{modality.name} in {SAMPLES}), found no file"]
        return []
    except DataError as error:
        return [str(error)]


def _read_offsets(folder: Path, modality: ModalitySpec, count: int) -> IntArray | None:
    """int64 [count + 1]: the offsets of sequences of different lengths; None if there is no such file."""
    path = folder / offsets_file(modality.name)
    if not os.path.lexists(path):
        return None
    with open_file(folder, offsets_file(modality.name), "an array") as file:
        header = read_header(file, path)
        fault = header.fault("int64", 8)
        if not fault and header.shape != (count + 1,):
            fault = f"expected int64 [{count + 1}], found int64 [{dims(header.shape)}]"
        if not fault and len(modality.shape) != 2:
            fault = f"expected no offsets, since {modality.name}.shape is not (steps, features); remove it"
        if fault:
            raise DataError(f"{printable(path)}: {fault}")
        offsets = np.concatenate([*read_rows(file, path, header, np.int64)])
    lengths, longest = np.diff(offsets), modality.shape[0]
    if offsets[0] != 0 or (offsets < 0).any() or (lengths <= 0).any():
        found = f"found {offsets[0]} to {offsets[-1]}, or values in between that do not ascend"
        raise DataError(f"{printable(path)}: expected ascending offsets from 0, {found}")
    if lengths.max(initial=0) > longest:
        raise DataError(
            f"{printable(path)}: expected at most {longest} steps ({modality.name}.shape), found {lengths.max()}"
        )
    return offsets


def _value_faults(
    folder: Path, modality: ModalitySpec, offsets: IntArray | None, rows: IntArray, ids: IntArray
) -> Iterator[str]:
    path, count = folder / array_file(modality.name), int((rows >= 0).sum())
    shape, length = modality.shape, f"{count} rows (has_{modality.name} in {SAMPLES})"
    if offsets is not None:
        shape, count = modality.shape[1:], int(offsets[-1])
        length = f"{count} steps (the last offset in {modality.name}.offsets.npy)"
    with open_file(folder, array_file(modality.name), "an array") as file:
        header = read_header(file, path)
        fault = header.fault("float32", 4)
        if not fault and header.shape[1:] != shape:
            fault = f"expected float32 [rows, {dims(shape)}], found float32 [{dims(header.shape)}]"
        if not fault and header.shape[0] != count:
            fault = f"expected {length}, found {header.shape[0]}"
        if fault:
            yield f"{printable(path)}: {fault}"
            return
        start = 0
        for block in read_rows(file, path, header, np.float32):
            finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                yield (
                    f"{printable(path)}: expected finite numbers, found NaN or infinity in row {row}; mark missing "
                    "data as absent"
                )
                break
            start += len(block)
        different = _ids_with_different_values(file, path, header, offsets, rows, ids)
    if len(different):
        yield (
            f"{printable(path)}: expected the same numbers in all rows of an id, found different ones for "
            f"{first_values(different)}"
        )


def _ids_with_different_values(
    file: BinaryIO, path: Path, header: ArrayHeader, offsets: IntArray | None, rows: IntArray, ids: IntArray
) -> IntArray:
    """The ids that occur more than once, with different values."""
    known: dict[int, bytes] = {}
    different = set()
    size = 4 * int(np.prod(header.shape[1:]))
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    for sample in np.flatnonzero((counts[inverse] > 1) & (rows >= 0)):
        row, key = int(rows[sample]), int(ids[sample])
        first, after = (row, row + 1) if offsets is None else (int(offsets[row]), int(offsets[row + 1]))
        with reading(path):
            file.seek(header.start + first * size)
            digest = hashlib.sha256(file.read((after - first) * size)).digest()
        if known.setdefault(key, digest) != digest:
            different.add(key)
    return np.array(sorted(different), dtype=np.int64)

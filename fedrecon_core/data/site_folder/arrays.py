"""What can be wrong with the arrays of a site folder. They are read in blocks and never mapped: a mapped file that
another program cuts would end the process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.description import SAMPLES, array_file, offsets_file
from fedrecon_core.data.site_folder.files import Layout, dims, layout_of, named, open_file, read_rows, told
from fedrecon_core.data.site_folder.samples import some
from fedrecon_core.errors import DataError
from fedrecon_core.types import ModalitySpec


def array_faults(folder: Path, modality: ModalitySpec, rows: IntArray, ids: IntArray) -> list[str]:
    """Every fault of a modality's files. ``rows`` int64 [N]: the row of each sample, or -1; ``ids`` int64 [N]."""
    path, count = folder / array_file(modality.name), int((rows >= 0).sum())
    try:
        borders = _borders(folder, modality, count)
        if os.path.lexists(path):
            return [*_faults(folder, modality, borders, rows, ids)]
        if count or borders is not None:
            return [f"{named(path)}: expected {count} rows (has_{modality.name} in {SAMPLES}), found no file"]
        return []
    except DataError as error:
        return [str(error)]


def _borders(folder: Path, modality: ModalitySpec, count: int) -> IntArray | None:
    """int64 [count + 1]: the borders of sequences of different lengths; None where all rows are alike."""
    path = folder / offsets_file(modality.name)
    if not os.path.lexists(path):
        return None
    with open_file(folder, offsets_file(modality.name), "an array") as file:
        layout = layout_of(file, path)
        fault = layout.misfit("int64", 8)
        if not fault and layout.shape != (count + 1,):
            fault = f"expected int64 [{count + 1}], found int64 [{dims(layout.shape)}]"
        if not fault and len(modality.shape) != 2:
            fault = f"expected no borders, since {modality.name}.shape is not (steps, features); remove it"
        if fault:
            raise DataError(f"{named(path)}: {fault}")
        borders = np.concatenate([*read_rows(file, path, layout, np.int64)])
    lengths, longest = np.diff(borders), modality.shape[0]
    ends = f"found {borders[0]} to {borders[-1]}"
    if borders[0] != 0 or (borders < 0).any() or (lengths <= 0).any():
        raise DataError(f"{named(path)}: expected ascending borders from 0, {ends}, or some that do not ascend")
    if lengths.max(initial=0) > longest:
        raise DataError(
            f"{named(path)}: expected at most {longest} steps ({modality.name}.shape), found {lengths.max()}"
        )
    return borders


def _faults(
    folder: Path, modality: ModalitySpec, borders: IntArray | None, rows: IntArray, ids: IntArray
) -> Iterator[str]:
    path, count = folder / array_file(modality.name), int((rows >= 0).sum())
    shape, length = modality.shape, f"{count} rows (has_{modality.name} in {SAMPLES})"
    if borders is not None:
        shape, count = modality.shape[1:], int(borders[-1])
        length = f"{count} steps (the last border in {modality.name}.offsets.npy)"
    with open_file(folder, array_file(modality.name), "an array") as file:
        layout = layout_of(file, path)
        fault = layout.misfit("float32", 4)
        if not fault and layout.shape[1:] != shape:
            fault = f"expected float32 [rows, {dims(shape)}], found float32 [{dims(layout.shape)}]"
        if not fault and layout.shape[0] != count:
            fault = f"expected {length}, found {layout.shape[0]}"
        if fault:
            yield f"{named(path)}: {fault}"
            return
        bad = _not_finite(file, path, layout)
        if bad is not None:
            yield (
                f"{named(path)}: expected finite numbers, found NaN or infinity in row {bad}; "
                "mark what is missing as absent"
            )
        torn = _differing(file, path, layout, _places(borders, rows, ids))
    if len(torn):
        yield f"{named(path)}: expected the same numbers wherever an id stands again, found others for {some(torn)}"


def _not_finite(file: BinaryIO, path: Path, layout: Layout) -> int | None:
    """The first row with NaN or infinity."""
    start = 0
    for block in read_rows(file, path, layout, np.float32):
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            return start + int(np.argmin(finite))
        start += len(block)
    return None


def _places(borders: IntArray | None, rows: IntArray, ids: IntArray) -> Iterator[tuple[int, int, int]]:
    """(id, first row, number of rows in the array) of every sample whose id stands more than once."""
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    for sample in np.flatnonzero((counts[inverse] > 1) & (rows >= 0)):
        row = int(rows[sample])
        first, after = (row, row + 1) if borders is None else (int(borders[row]), int(borders[row + 1]))
        yield int(ids[sample]), first, after - first


def _differing(file: BinaryIO, path: Path, layout: Layout, places: Iterator[tuple[int, int, int]]) -> IntArray:
    """The ids that do not stand beside the same numbers each time."""
    known: dict[int, bytes] = {}
    torn = set()
    size = 4 * int(np.prod(layout.shape[1:]))
    for key, first, count in places:
        with told(path):
            file.seek(layout.start + first * size)
            digest = hashlib.sha256(file.read(count * size)).digest()
        if known.setdefault(key, digest) != digest:
            torn.add(key)
    return np.array(sorted(torn), dtype=np.int64)

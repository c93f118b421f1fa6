"""Opens a site folder without reading its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import Dataset, IntArray, StoredArray
from fedrecon_core.data.site_folder.description import array_file, offsets_file, read_description
from fedrecon_core.data.site_folder.files import map_array, named
from fedrecon_core.data.site_folder.stamp import State, stamped, state_of
from fedrecon_core.errors import DataError
from fedrecon_core.types import ModalitySpec


def open_folder(folder: Path) -> Dataset:
    """The folder's samples with their arrays mapped from the disk; nothing is hashed and no array is read.

    Raises ``DataError``, and nothing else, where the folder was not checked, was changed since, or cannot be read.
    Bytes that were changed in place, with size and time of the file kept, are not seen (``check_folder`` sees them).
    """
    description = read_description(folder)
    spec, state = description.spec, state_of(folder)
    table = stamped(folder, spec, state)
    border = 4 + len(spec.names)
    rows = dict(zip(spec.names, table[4:border], strict=True))
    opened = {m.name: _mapped(folder, m, rows[m.name], state) for m in spec.modalities}
    return Dataset(
        spec=spec,
        labels=table[border] if spec.target == "multiclass" else table[border:].reshape(-1, len(spec.classes)),
        ids=table[0],
        split=table[1],
        cluster_ids=table[2],
        natural_ids=table[3],
        arrays={name: array for name, (array, _) in opened.items()},
        rows=rows,
        offsets={name: borders for name, (_, borders) in opened.items() if borders is not None},
        faults=description.faults,
    )


def open_whole(folder: Path) -> Dataset:
    """As ``open_folder``, of a folder that is a whole data set: some sample must have each modality."""
    dataset = open_folder(folder)
    lacking = [name for name in dataset.spec.names if not (dataset.rows[name] >= 0).any()]
    if lacking:
        raise DataError(f"{folder}: expected some sample with modality '{lacking[0]}', found none in the whole set")
    return dataset


def _mapped(folder: Path, modality: ModalitySpec, rows: IntArray, state: State) -> tuple[StoredArray, IntArray | None]:
    """A modality's array, mapped, and its borders: as long as ``rows`` says."""
    name, count = modality.name, int(rows.max(initial=-1)) + 1
    if array_file(name) not in state:
        if count:
            raise DataError(f"{named(folder / array_file(name))}: expected {count} rows, found no file")
        return np.zeros((0, *modality.shape), dtype=np.float32), None
    if offsets_file(name) not in state:
        return map_array(folder, array_file(name), np.float32, (count, *modality.shape)), None
    borders = map_array(folder, offsets_file(name), np.int64, (count + 1,))
    ends = (int(borders[0]), int(borders[-1]))
    if ends[0] != 0 or ends[1] < 0:
        path = named(folder / offsets_file(name))
        raise DataError(f"{path}: expected ascending borders from 0, found {ends[0]} to {ends[1]}")
    return map_array(folder, array_file(name), np.float32, (ends[1], *modality.shape[1:])), np.asarray(borders)

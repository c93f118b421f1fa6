"""Opening a site folder without reading its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import Dataset, IntArray, StoredArray
from fedrecon_core.data.site_folder.description import array_file, offsets_file, read_description
from fedrecon_core.data.site_folder.files import map_array, printable
from fedrecon_core.data.site_folder.stamp import folder_state, read_stamp
from fedrecon_core.errors import DataError


def open_folder(folder: Path) -> Dataset:
    """The folder's samples, with arrays mapped from the disk; nothing is hashed and no array is read.

    Raises ``DataError`` if the folder has not been checked, has changed since, or cannot be read; no other error. A
    change that keeps size and time of a file is not detected here, but ``check_folder`` detects it.
    """
    description = read_description(folder)
    spec, state = description.spec, folder_state(folder)
    table = read_stamp(folder, spec, state)
    first_label = 4 + len(spec.names)
    rows = dict(zip(spec.names, table[4:first_label], strict=True))
    arrays: dict[str, StoredArray] = {}
    offsets: dict[str, IntArray] = {}
    for modality in spec.modalities:
        name = modality.name
        count = int(rows[name].max(initial=-1)) + 1
        if array_file(name) not in state:
            if count:
                raise DataError(f"{printable(folder / array_file(name))}: expected {count} rows, found no file")
            arrays[name] = np.zeros((0, *modality.shape), dtype=np.float32)
        elif offsets_file(name) not in state:
            arrays[name] = map_array(folder, array_file(name), np.float32, (count, *modality.shape))
        else:
            borders = map_array(folder, offsets_file(name), np.int64, (count + 1,))
            first, last = int(borders[0]), int(borders[-1])
            if first != 0 or last < 0:
                path = printable(folder / offsets_file(name))
                raise DataError(f"{path}: expected ascending offsets from 0, found {first} to {last}")
            arrays[name] = map_array(folder, array_file(name), np.float32, (last, *modality.shape[1:]))
            offsets[name] = np.asarray(borders)
    return Dataset(
        spec=spec,
        labels=table[first_label]
        if spec.target == "multiclass"
        else table[first_label:].reshape(-1, len(spec.classes)),
        ids=table[0],
        split=table[1],
        cluster_ids=table[2],
        natural_ids=table[3],
        arrays=arrays,
        rows=rows,
        offsets=offsets,
        faults=description.faults,
    )


def open_whole(folder: Path) -> Dataset:
    """``open_folder`` for a folder that is a whole data set: each modality must occur in at least one sample."""
    dataset = open_folder(folder)
    lacking = [name for name in dataset.spec.names if not (dataset.rows[name] >= 0).any()]
    if lacking:
        raise DataError(f"{folder}: expected a sample with modality '{lacking[0]}', found none in the whole data set")
    return dataset

"""Writing a site folder: the table of samples, the arrays and the checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.description import (
    DESCRIPTION,
    FORMAT,
    SAMPLES,
    FileRecord,
    array_file,
    file_names,
    offsets_file,
)
from fedrecon_core.data.site_folder.files import digest_and_size, save_array
from fedrecon_core.data.site_folder.samples import Samples, sample_faults, write_samples
from fedrecon_core.data.site_folder.stamp import folder_state, write_stamp
from fedrecon_core.errors import DataError
from fedrecon_core.files import remove_leftovers, replace_text
from fedrecon_core.types import DatasetSpec


@dataclass(frozen=True)
class FolderContent:
    """Content of a site folder. ``arrays[m]`` float32 as in ``Dataset``, only for modalities that at least one sample
    has; ``offsets`` and ``faults`` as in ``Dataset``."""

    spec: DatasetSpec
    samples: Samples
    arrays: Mapping[str, NDArray[np.float32]]
    offsets: Mapping[str, IntArray] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def write_folder(folder: Path, content: FolderContent) -> None:
    """Write a checked site folder. ``DataError`` if ``folder`` exists and is not empty, if a check would refuse the
    samples (then nothing is written), or if the disk fails."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "files in it" if folder.is_dir() else "a file"
        raise DataError(f"{folder}: expected a new or empty folder, found {found}; choose another one")
    tested = content.samples.ids[content.samples.split == 2]
    draws = int(np.unique(tested, return_counts=True)[1].max(initial=1))  # how often a test sample is in the table
    for fault in sample_faults(folder / SAMPLES, content.samples, draws, content.faults):
        raise DataError(fault)
    try:
        (folder / "arrays").mkdir(parents=True)
        write_samples(folder / SAMPLES, content.spec, content.samples)
        for name, array in content.arrays.items():
            save_array(folder / array_file(name), np.ascontiguousarray(array, dtype=np.float32))
        for name, borders in content.offsets.items():
            save_array(folder / offsets_file(name), np.ascontiguousarray(borders, dtype=np.int64))
        seal(folder, content.spec, draws, content.faults)
        write_stamp(folder, content.samples)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None


def seal(folder: Path, spec: DatasetSpec, draws: int = 1, faults: Sequence[str] = ()) -> None:
    """Write ``dataset.yaml``: ``spec``, and size and SHA-256 of every file. The file is replaced atomically, so that a
    crash or a full disk does not lose a hand-written one. ``draws``: how often a test sample may be in the table, under
    different masks; ``faults`` as in ``Description``."""
    files = {*folder_state(folder)} & {*file_names(spec)}
    text = yaml.safe_dump(
        {
            "format": FORMAT,
            **spec.model_dump(mode="json"),
            **({"draws": draws} if draws > 1 else {}),
            **({"faults": [*faults]} if faults else {}),
            "spec_sha256": spec.digest(),
            "files": {name: record_of(folder, name).model_dump() for name in sorted(files)},
        },
        sort_keys=False,
    )
    remove_leftovers(folder)
    replace_text(folder / DESCRIPTION, text)


def record_of(folder: Path, name: str) -> FileRecord:
    """Size and SHA-256 of a file; ``DataError`` if it is not a regular file inside the folder."""
    digest, size = digest_and_size(folder, name)
    return FileRecord(bytes=size, sha256=digest)

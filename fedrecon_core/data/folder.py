"""The site folder: what a site's owner prepares, and how a site opens it without reading its arrays.

``dataset.yaml`` holds the data specification and the size and SHA-256 of every file; ``samples.parquet`` a row per
sample (id, label, split, group, where that is another unit natural, and ``has_<modality>``);
``arrays/<modality>.npy`` the rows of the samples that have the modality, in the samples' order, for sequences of
different lengths concatenated in time, with the borders in ``arrays/<modality>.offsets.npy``. A modality that the site
lacks altogether has no array.

A check (``folder_check``) reads everything once and leaves ``.checked/``: a stamp, by which a later change is seen, and
the table of samples in a form that needs no Parquet reader and is mapped, since a site's process is started for every
message. The stamp holds the SHA-256 of ``dataset.yaml`` and of the other files size and time: bytes that were changed
with both kept are not seen when the folder is opened, only by a check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, Stored
from fedrecon_core.data.folder_description import DESCRIPTION, FORMAT, LONGEST, FileRecord, read_description
from fedrecon_core.data.folder_files import digest_and_size, map_array, named, names_in, read_start, size_and_time
from fedrecon_core.disk import is_leftover, replace_file, replace_text
from fedrecon_core.errors import DataError
from fedrecon_core.types import SPLITS, DatasetSpec, ModalitySpec

SAMPLES, ARRAYS, CHECKED = "samples.parquet", "arrays", ".checked"
STAMP, TABLE = f"{CHECKED}/stamp.json", f"{CHECKED}/samples.npy"

State = dict[str, list[int]]
"""File -> size and time of its last change; nothing where it is no plain file."""


@dataclass(frozen=True)
class Samples:
    """The table of samples. ``ids``, ``labels`` (multilabel: zeros and ones [N, C]), ``split`` (0 train, 1 validation,
    2 test), ``groups`` int64 [N]; ``present`` bool [N, M] in the order of the spec's modalities; ``naturals`` int64 [N]
    as in ``Dataset``, where they are not the groups."""

    ids: IntArray
    labels: IntArray
    split: IntArray
    groups: IntArray
    present: BoolArray
    naturals: IntArray | None = None

    @property
    def natural_ids(self) -> IntArray:
        """int64 [N]: ``naturals``, where there are none ``groups``."""
        return self.groups if self.naturals is None else self.naturals


@dataclass(frozen=True)
class Content:
    """All that a folder holds. ``arrays[m]`` float32 as in ``Dataset``, only for modalities that some sample has."""

    spec: DatasetSpec
    samples: Samples
    arrays: Mapping[str, NDArray[np.float32]]
    offsets: Mapping[str, IntArray] = field(default_factory=dict)


def array_file(modality: str) -> str:
    """Where the rows of a modality lie, relative to the folder."""
    return f"arrays/{modality}.npy"


def offsets_file(modality: str) -> str:
    """Where the borders of sequences of different lengths lie, relative to the folder."""
    return f"arrays/{modality}.offsets.npy"


# --- writing --------------------------------------------------------------------------------------------------------


def write_folder(folder: Path, content: Content) -> None:
    """Write a checked site folder; ``DataError`` if ``folder`` holds something already, or cannot be written."""
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: expected a new or empty folder, found files in it; choose another one")
    try:
        (folder / "arrays").mkdir(parents=True)
        write_samples(folder / SAMPLES, content.spec, content.samples)
        for name, array in content.arrays.items():
            save_array(folder / array_file(name), np.ascontiguousarray(array, dtype=np.float32))
        for name, borders in content.offsets.items():
            save_array(folder / offsets_file(name), np.ascontiguousarray(borders, dtype=np.int64))
        seal(folder, content.spec, _draws(content.samples))
        stamp(folder, content.samples)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None


def _draws(samples: Samples) -> int:
    """How often a test sample stands in the table at most."""
    return int(np.unique(samples.ids[samples.split == 2], return_counts=True)[1].max(initial=1))


def write_samples(path: Path, spec: DatasetSpec, samples: Samples) -> None:
    """Write the table of samples; the classes of a multilabel sample are a list of positions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": samples.ids,
        "label": samples.labels if spec.target == "multiclass" else [np.flatnonzero(row) for row in samples.labels],
        "split": np.array(SPLITS)[samples.split],
        "group": samples.groups,
        **({} if samples.naturals is None else {"natural": samples.naturals}),
        **{f"has_{name}": samples.present[:, index] for index, name in enumerate(spec.names)},
    }
    pq.write_table(pa.table(columns), path)


def seal(folder: Path, spec: DatasetSpec, draws: int = 1) -> None:
    """Write ``dataset.yaml``: ``spec``, and size and SHA-256 of every file as it is now. It is replaced whole, for what
    its owner wrote by hand must not be lost to a crash or a full disk. ``draws``: how often a test sample may stand in
    the table, under other masks."""
    there = {*state_of(folder)} & {*file_names(spec)}
    text = yaml.safe_dump(
        {
            "format": FORMAT,
            **spec.model_dump(mode="json"),
            **({"draws": draws} if draws > 1 else {}),
            "spec_sha256": spec.digest(),
            "files": {name: record_of(folder, name).model_dump() for name in sorted(there)},
        },
        sort_keys=False,
    )
    _sweep(folder)
    replace_text(folder / DESCRIPTION, text)


def file_names(spec: DatasetSpec) -> list[str]:
    """The data files that a folder may hold, relative to it."""
    return [SAMPLES, *(of(name) for name in spec.names for of in (array_file, offsets_file))]


def record_of(folder: Path, name: str) -> FileRecord:
    """Size and SHA-256 of a file, read in blocks; ``DataError`` where it is no plain file inside the folder."""
    digest, size = digest_and_size(folder, name)
    return FileRecord(bytes=size, sha256=digest)


def state_of(folder: Path) -> State:
    """The data files as they are now, whatever lies in ``arrays`` among them."""
    found = {name: size_and_time(folder, name) for name in (SAMPLES, *names_in(folder, ARRAYS))}
    return {name: state for name, state in found.items() if state or name != SAMPLES}


def stamp(folder: Path, samples: Samples, state: State | None = None) -> None:
    """Leave word that the files, as they were in ``state`` (else as they are now), were read and found right. The stamp
    comes last: until it is there, the folder counts as it did before."""
    checked, table = folder / CHECKED, _stacked(samples)
    if checked.is_symlink() or (checked.exists() and not checked.is_dir()):
        checked.unlink()
    checked.mkdir(exist_ok=True)
    _sweep(checked)
    if not _holds(folder, table):  # a check that breaks off leaves a folder that opens as it was
        replace_file(folder / TABLE, lambda partial: save_array(partial, table))
    replace_text(folder / STAMP, json.dumps(_seen(folder, state_of(folder) if state is None else state), indent=1))


def _holds(folder: Path, table: IntArray) -> bool:
    """Whether an earlier check left the same table."""
    try:
        return np.array_equal(map_array(folder, TABLE, np.int64, table.shape), table)
    except DataError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what a crash left half written: whatever has such a name now is not written into."""
    for path in folder.iterdir():
        if is_leftover(path):
            path.unlink()


def _seen(folder: Path, state: State) -> dict[str, Any]:
    """What a stamp holds: the state of the data files, what ``dataset.yaml`` is, and the state of the table beside
    it."""
    digest = hashlib.sha256(read_start(folder, DESCRIPTION, LONGEST)).hexdigest()
    return {DESCRIPTION: digest, "files": state, TABLE: size_and_time(folder, TABLE)}


def _stacked(samples: Samples) -> IntArray:
    """int64 [4 + M + 1 (multilabel: C), N]: a row per column of the table. A modality's holds the sample's row in its
    array or -1; the labels of a multilabel set fill theirs sample by sample, so that they are mapped as they are used.
    """
    singles = (samples.ids, samples.split, samples.groups, samples.natural_ids)
    across = samples.labels.shape[1:] or (1,)
    labels = np.ascontiguousarray(samples.labels).reshape(*across, len(samples.ids))
    return np.concatenate([np.stack([*singles, *rows_of(samples.present)]), labels])


def rows_of(present: BoolArray) -> list[IntArray]:
    """Per modality (column of ``present``) int64 [N]: the row of each sample in the modality's array, or -1."""
    return [np.where(has, np.cumsum(has) - 1, -1) for has in present.T]


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write what ``np.save`` does, and see a full disk: that leaves the end to a buffer that loses it in silence."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


# --- opening --------------------------------------------------------------------------------------------------------


def open_folder(folder: Path) -> Dataset:
    """The folder's samples with their arrays mapped from the disk; nothing is hashed and no array is read.

    Raises ``DataError``, and nothing else, where the folder was not checked, was changed since, or cannot be read.
    Bytes that were changed in place, with size and time of the file kept, are not seen (``check_folder`` sees them).
    """
    description = read_description(folder)
    spec, state = description.spec, state_of(folder)
    table = _stamped(folder, spec, state)
    border = 4 + len(spec.names)
    rows = dict(zip(spec.names, table[4:border], strict=True))
    opened = {m.name: _mapped(folder, m, rows[m.name], state) for m in spec.modalities}
    return Dataset(
        spec=spec,
        labels=table[border] if spec.target == "multiclass" else table[border:].reshape(-1, len(spec.classes)),
        ids=table[0],
        split=table[1],
        groups=table[2],
        naturals=table[3],
        arrays={name: array for name, (array, _) in opened.items()},
        rows=rows,
        offsets={name: borders for name, (_, borders) in opened.items() if borders is not None},
    )


def _stamped(folder: Path, spec: DatasetSpec, state: State) -> IntArray:
    """The table of samples as it was checked (``_stacked``), mapped."""
    todo = f"run `fedrecon data check {named(folder)}`"
    width = 4 + len(spec.names) + (1 if spec.target == "multiclass" else len(spec.classes))
    try:
        known: Any = json.loads(read_start(folder, STAMP, LONGEST))
        then, now = known["files"], _seen(folder, state)
        changed = sorted(name for name in {*then, *state} if then.get(name) != state.get(name))
        changed += [DESCRIPTION] if known[DESCRIPTION] != now[DESCRIPTION] else []
        whole = known[TABLE] == now[TABLE]
    except (DataError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{named(folder)} has not been checked; {todo}") from None
    if changed:
        raise DataError(f"{named(folder)} changed since it was checked ({_few(changed)}); {todo}")
    try:
        table = map_array(folder, TABLE, np.int64, (width, None)) if whole else None
    except DataError:
        table = None
    if table is None:
        raise DataError(f"{named(folder)} has not been checked (what a check left there is damaged); {todo}")
    return np.asarray(table)


def _few(names: Iterable[str]) -> str:
    known = [*names]
    return named(", ".join(known[:5]) + (f", {len(known) - 5} more" if len(known) > 5 else ""))


def _mapped(folder: Path, modality: ModalitySpec, rows: IntArray, state: State) -> tuple[Stored, IntArray | None]:
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

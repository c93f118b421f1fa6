"""The site folder: what a site's owner prepares, and how a site opens it without reading its arrays.

``dataset.yaml`` holds the data specification and the size and SHA-256 of every file; ``samples.parquet`` a row per
sample (id, label, split, group, where that is another unit natural, and ``has_<modality>``);
``arrays/<modality>.npy`` the rows of the samples that have the modality, in the samples' order, for sequences of
different lengths concatenated in time, with the borders in ``arrays/<modality>.offsets.npy``. A modality that the site
lacks altogether has no array.

A check (``folder_check``) reads everything once and leaves ``.checked/``: a stamp, by which a later change is seen, and
the table of samples in a form that needs no Parquet reader, since a site's process is started for every message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, Stored
from fedrecon_core.disk import replace_file, replace_text
from fedrecon_core.errors import DataError
from fedrecon_core.faults import explain
from fedrecon_core.types import SPLITS, DatasetSpec, Frozen

FORMAT = 1
DESCRIPTION, SAMPLES, CHECKED = "dataset.yaml", "samples.parquet", ".checked"
BLOCK = 1 << 20


class FileRecord(Frozen):
    """Size and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


class Description(DatasetSpec):
    """What ``dataset.yaml`` holds."""

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def spec(self) -> DatasetSpec:
        """The part on which the whole federation agrees."""
        return DatasetSpec(name=self.name, modalities=self.modalities, classes=self.classes, target=self.target)


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
        seal(folder, content.spec)
        stamp(folder, content.samples)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None


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


def seal(folder: Path, spec: DatasetSpec) -> None:
    """Write ``dataset.yaml``: ``spec``, and size and SHA-256 of every file as it is now. It is replaced whole, for what
    its owner wrote by hand must not be lost to a crash or a full disk."""
    files = {name: record_of(folder / name).model_dump() for name in files_of(folder)}
    text = yaml.safe_dump({"format": FORMAT, **spec.model_dump(mode="json"), "files": files}, sort_keys=False)
    replace_text(folder / DESCRIPTION, text)


def files_of(folder: Path) -> list[str]:
    """The data files in ``folder``, relative to it, sorted."""
    found = [folder / SAMPLES, *sorted((folder / "arrays").glob("*"))]
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def record_of(path: Path) -> FileRecord:
    """Size and SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return FileRecord(bytes=path.stat().st_size, sha256=digest.hexdigest())


def stamp(folder: Path, samples: Samples) -> None:
    """Leave word that the files, as they are now, were read and found right. The stamp comes last: until it is there,
    the folder counts as it did before."""
    (folder / CHECKED).mkdir(exist_ok=True)
    replace_file(folder / CHECKED / "samples.npy", lambda partial: save_array(partial, _stacked(samples)))
    replace_text(folder / CHECKED / "stamp.json", json.dumps(_state_of(folder), indent=1))


def _stacked(samples: Samples) -> IntArray:
    """int64 [4 + M + 1 (multilabel: C), N]: the table of samples, a row per column of it."""
    labels = samples.labels[:, None] if samples.labels.ndim == 1 else samples.labels
    singles = (samples.ids, samples.split, samples.groups, samples.natural_ids)
    return np.stack([*singles, *samples.present.T.astype(np.int64), *labels.T])


def _unstacked(table: IntArray, spec: DatasetSpec) -> Samples:
    """What ``_stacked`` stacked."""
    ids, split, groups, naturals = table[:4]
    border = 4 + len(spec.names)
    labels = table[border] if spec.target == "multiclass" else np.ascontiguousarray(table[border:].T)
    return Samples(ids, labels, split, groups, table[4:border].T.astype(np.bool_), naturals)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write what ``np.save`` does, and see a full disk: that leaves the end to a buffer that loses it in silence."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _state_of(folder: Path) -> dict[str, list[int]]:
    """File -> size and time of its last change."""
    found = {name: (folder / name).stat() for name in (DESCRIPTION, *files_of(folder))}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


# --- opening --------------------------------------------------------------------------------------------------------


def read_description(folder: Path) -> Description:
    """``dataset.yaml``, checked; ``DataError`` naming the file and the key at fault."""
    path = folder / DESCRIPTION
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: expected the description of a site folder, found {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected a mapping (name, modalities, classes, files), found {type(raw).__name__}")
    try:
        return Description.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error, raw, Description)}") from None


def open_folder(folder: Path) -> Dataset:
    """The folder's samples with their arrays mapped from the disk; nothing is hashed and no array is read.

    Raises ``DataError`` where the folder was not checked, or was changed since.
    """
    description = read_description(folder)
    samples = _stamped(folder, description.spec)
    opened = {m.name: _mapped(folder, m.name) for m in description.modalities if (folder / array_file(m.name)).exists()}
    return dataset_of(
        Content(
            description.spec,
            samples,
            arrays={name: array for name, (array, _) in opened.items()},
            offsets={name: borders for name, (_, borders) in opened.items() if borders is not None},
        )
    )


def dataset_of(content: Content) -> Dataset:
    """The data set of a folder's content; modalities without an array get an empty one."""
    samples, spec = content.samples, content.spec
    rows = {
        name: np.where(has, np.cumsum(has) - 1, -1) for name, has in zip(spec.names, samples.present.T, strict=True)
    }
    arrays: dict[str, Stored] = {m.name: np.zeros((0, *m.shape), dtype=np.float32) for m in spec.modalities}
    arrays.update(content.arrays)
    return Dataset(
        spec=spec,
        labels=samples.labels,
        ids=samples.ids,
        split=samples.split,
        groups=samples.groups,
        naturals=samples.naturals,
        arrays=arrays,
        rows=rows,
        offsets=dict(content.offsets),
    )


def _stamped(folder: Path, spec: DatasetSpec) -> Samples:
    """The table of samples as it was checked."""
    todo = f"run `fedrecon data check {folder}`"
    try:
        known: Any = json.loads((folder / CHECKED / "stamp.json").read_text(encoding="utf-8"))
        table = np.load(folder / CHECKED / "samples.npy", allow_pickle=False)
        now = _state_of(folder)
    except (OSError, ValueError):
        raise DataError(f"{folder} has not been checked; {todo}") from None
    changed = sorted(name for name in {*known, *now} if known.get(name) != now.get(name))
    labels = 1 if spec.target == "multiclass" else len(spec.classes)
    if changed or len(table) != 4 + len(spec.names) + labels:
        raise DataError(f"{folder} changed since it was checked ({', '.join(changed) or CHECKED}); {todo}")
    return _unstacked(table, spec)


def _mapped(folder: Path, name: str) -> tuple[NDArray[np.float32], IntArray | None]:
    """A modality's array, mapped, and its borders. Copy-on-write: PyTorch takes no read-only memory."""
    array = np.load(folder / array_file(name), mmap_mode="c", allow_pickle=False)
    borders = folder / offsets_file(name)
    return array, np.load(borders, allow_pickle=False) if borders.exists() else None

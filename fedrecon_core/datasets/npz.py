"""Data set ``npz``: arrays in one .npz file, described by a small YAML file next to it.

The YAML file (``NpzDescription``) is ``data.root``. Arrays in an .npz file cannot be memory-mapped: the process that
opens it loads all named arrays as float32. For data that are large compared to the memory, prepare a folder once
(``fedrecon data prepare npz --raw FOLDER --out DIR``, where FOLDER has the YAML file as ``npz.yaml``) and use that as
``data.root``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.data.site_folder.check import kind_fault, shape_fault
from fedrecon_core.data.site_folder.opening import open_whole
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import DataError
from fedrecon_core.files import inside, read_text
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import file_states, rows_version
from fedrecon_core.preparation.raw_dataset import FloatArray, RawDataset, RowReader
from fedrecon_core.preparation.raw_readers.npz_description import (
    NpzDescription,
    NpzModality,
    read_description,
)
from fedrecon_core.preparation.raw_readers.npz_file import NpzFile
from fedrecon_core.registry import DATASETS
from fedrecon_core.seeding import numpy_stream
from fedrecon_core.types import SPLITS, DatasetSpec, ModalitySpec, StrictModel

PADDED = ("T", "D")
"""The axes of one sample of a modality with lengths."""


class NpzRaw(StrictModel):
    """``description``: the YAML file in the raw folder."""

    description: str = "npz.yaml"


class NpzParams(DataParams):
    """``root``: the YAML file, or a folder prepared from one."""


@DATASETS.register("npz")
class Npz(PreparedLoader):
    """Arrays under their own names, described by ``NpzDescription``."""

    Params = NpzParams
    Raw = NpzRaw
    name = "npz"
    opens_files = True

    @classmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        """The YAML file; the .npz file that it names is checked when it is read."""
        return [ExpectedFile(cast(NpzRaw, keys).description, "the YAML file that describes the arrays")]

    @classmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """Read the arrays as rows of a folder, under the name in the YAML file."""
        path = inside(raw, cast(NpzRaw, keys).description)
        file = inside(path.parent, read_description(path).file)
        version = rows_version((), (read_text(path), *file_states(raw, [file])))
        dataset = read_npz(path)
        columns = (dataset.ids, dataset.labels, dataset.split, dataset.cluster_ids)
        samples = Samples(*columns, present=dataset.exists(), natural_ids=dataset.natural_ids)

        def reader(name: str) -> RowReader:
            array, rows, offsets = np.asarray(dataset.arrays[name]), dataset.rows[name], dataset.offsets.get(name)
            if offsets is None:
                return lambda samples: list(array[rows[samples]])
            return lambda samples: [array[offsets[row] : offsets[row + 1]] for row in rows[samples].tolist()]

        rows = {name: reader(name) for name in dataset.spec.names}
        return RawDataset(dataset.spec, samples, rows, frozenset(dataset.offsets), version=version)

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Load the arrays into memory, or open the prepared folder; ``seed`` is not used."""
        if root is None:
            raise DataError("data.root: data set 'npz' expects the YAML file that describes the arrays, found none")
        return open_whole(root) if root.is_dir() else read_npz(root)


def read_npz(path: Path) -> Dataset:
    """Read the data set that the YAML file ``path`` describes; ``DataError`` naming an invalid key or array."""
    description = read_description(path)
    file = NpzFile(inside(path.parent, description.file))
    classes, labels = _read_labels(file, description)
    count = len(labels)
    groups = np.arange(count) if description.group is None else file.codes(description.group, "group", count)
    split = _read_split(path, file, description, groups)
    modalities = {modality.name: _read_modality(file, modality, count) for modality in description.modalities}
    return Dataset(
        spec=DatasetSpec(
            name=description.name,
            modalities=tuple(found.spec for found in modalities.values()),
            classes=classes,
            target="multiclass" if labels.ndim == 1 else "multilabel",
        ),
        labels=labels,
        ids=np.arange(count, dtype=np.int64),
        split=split,
        cluster_ids=groups,
        natural_ids=groups if description.natural is None else file.codes(description.natural, "natural", count),
        arrays={name: found.values for name, found in modalities.items()},
        rows={name: found.rows for name, found in modalities.items()},
        offsets={name: found.offsets for name, found in modalities.items() if found.offsets is not None},
    )


def _read_labels(file: NpzFile, description: NpzDescription) -> tuple[tuple[str, ...], IntArray]:
    """Read the names of the classes, and the labels: int64 [N], or zeros and ones [N, C]."""
    classes, name = description.classes, description.label
    if isinstance(classes, str):
        classes = tuple(file.column(classes, "classes", "U", None).tolist())
    if len(classes) < 2 or len(set(classes)) < len(classes):
        found = ", ".join(classes) or "none"
        raise DataError(f"{file.path}: classes: expected two or more different names, found {found}")
    labels, count = file.of(name, "label", "iub", None), len(classes)
    multilabel = labels.ndim == 2
    if labels.ndim > 2 or (multilabel and labels.shape[1] != count):
        expected = f"[N], or [N, {count}] of zeros and ones"
        raise DataError(f"{file.path}: {name} (label): expected {expected}, found {list(labels.shape)}")
    wrong = labels[(labels < 0) | (labels >= (2 if multilabel else count))]
    if wrong.size:
        expected = "zeros and ones" if multilabel else f"0 to {count - 1} (the classes)"
        raise DataError(f"{file.path}: {name} (label): expected {expected}, found {wrong.flat[0]}")
    return classes, labels.astype(np.int64)


def _read_split(path: Path, file: NpzFile, description: NpzDescription, groups: IntArray) -> IntArray:
    """Return the split of each sample (0 train, 1 validation, 2 test); none is empty, and no group is in two."""
    split = np.zeros(len(groups), dtype=np.int64)
    if (given := description.split) is not None:
        values = file.column(given.array, "split.array", "iuU", len(groups))
        split[:] = -1
        for part, names in enumerate((given.train, given.validation, given.test)):
            same_type = [value for value in names if isinstance(value, str) == (values.dtype.kind == "U")]
            split[np.isin(values, same_type)] = part
        if (split < 0).any():
            expected = "expected each value in split.train, .validation or .test"
            raise DataError(f"{file.path}: {given.array}: {expected}, found {values[split < 0][0].item()!r}")
    pairs = np.unique(np.stack([groups, split]), axis=1)[0]
    straddling, times = np.unique(pairs, return_counts=True)
    if (times > 1).any():
        found = f"found group {straddling[times > 1][0]} in {int(times.max())} of them"
        advice = "name an array under group whose values do not straddle splits, or correct the split"
        raise DataError(f"{file.path}: group: expected each group in one split, {found}; that leaks; {advice}")
    for part, drawn in ((2, description.test), (1, description.validation)):
        if drawn is None:
            continue
        training = np.unique(groups[split == 0])
        wanted = round(drawn.share * len(training))
        if not 0 < wanted < len(training):
            expected = f"a share that selects some but not all of the {len(training)} groups of the training part"
            raise DataError(f"{path}: {SPLITS[part]}.share: expected {expected}, found {drawn.share}")
        # The same groups in every run: the run's seed is not used.
        chosen = numpy_stream(0, "npz", SPLITS[part]).permutation(training)[:wanted]
        split[np.isin(groups, chosen)] = part
    empty = [name for part, name in enumerate(SPLITS) if not (split == part).any()]
    if empty:
        advice = f"list its values under split.{empty[0]}"
        advice += "" if empty[0] == "train" else f", or set {empty[0]}.share"
        raise DataError(f"{path}: expected samples in every split, found none in {empty[0]}; {advice}")
    return split


@dataclass(frozen=True)
class _ModalityArrays:
    """One modality in the form of ``Dataset``."""

    spec: ModalitySpec
    values: FloatArray
    rows: IntArray
    offsets: IntArray | None


def _read_modality(file: NpzFile, modality: NpzModality, count: int) -> _ModalityArrays:
    key = f"modalities.{modality.name}"
    array = file.of(modality.array, key, "fiub", count)
    if modality.channels is not None:
        width = array.shape[-1] if array.ndim > 1 else 0
        wrong = [channel for channel in modality.channels if not 0 <= channel < width]
        if wrong:
            expected = f"positions 0 to {width - 1} on the last axis of {modality.array}" if width else "none"
            raise DataError(f"{file.path}: {key}.channels: expected {expected}, found {wrong[0]}")
        array = array[..., list(modality.channels)]
    spec = _spec(file, modality, array.shape[1:])
    has: BoolArray = np.ones(count, dtype=np.bool_)
    if modality.present is not None:
        has = file.column(modality.present, f"{key}.present", "b", count)
        if not has.any():
            expected = "expected a sample that has it"
            raise DataError(f"{file.path}: {modality.present} ({key}.present): {expected}, found none")
    rows = np.where(has, np.cumsum(has) - 1, -1).astype(np.int64)
    kept = array if has.all() else array[has]
    offsets = None
    if modality.lengths is not None:
        lengths = file.column(modality.lengths, f"{key}.lengths", "iu", count)[has].astype(np.int64)
        wrong_lengths = lengths[(lengths < 1) | (lengths > array.shape[1])]
        if len(wrong_lengths):
            where = f"{file.path}: {modality.lengths} ({key}.lengths)"
            found = f"found {wrong_lengths[0]}; mark missing samples with an array (present)"
            raise DataError(f"{where}: expected 1 to {array.shape[1]} steps, {found}")
        kept = kept[np.arange(array.shape[1])[None, :] < lengths[:, None]]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
        values = np.ascontiguousarray(kept, dtype=np.float32)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        sample = int(np.flatnonzero(has)[row if offsets is None else np.searchsorted(offsets, row, side="right") - 1])
        found = f"found NaN or infinity in row {sample}; mark missing samples with an array (modalities: present)"
        raise DataError(f"{file.path}: {modality.array} ({key}): expected finite numbers, {found}")
    return _ModalityArrays(spec, values, rows, offsets)


def _spec(file: NpzFile, modality: NpzModality, shape: tuple[int, ...]) -> ModalitySpec:
    where = f"{file.path}: modalities.{modality.name}"
    if (fault := kind_fault(modality.kind)) is not None:
        raise DataError(f"{where}.kind: {fault}")
    if (fault := shape_fault(modality.kind, shape)) is not None:
        raise DataError(f"{where}: a sample of {modality.array}: {fault}")
    if modality.lengths is not None and len(shape) != len(PADDED):
        raise DataError(f"{where}.lengths: expected an array [N, T, D], found one of {1 + len(shape)} axes")
    return ModalitySpec(
        name=modality.name, kind=modality.kind, shape=shape, likelihood=modality.likelihood, scale=modality.scale
    )

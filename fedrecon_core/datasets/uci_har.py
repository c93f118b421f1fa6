"""Data set ``uci_har``: acceleration and angular velocity of a phone at the waist, 30 subjects, six activities.

There are three layouts of the raw files: UCI-HAR's own windows, the raw recordings of HAPT, from which the windows are
rebuilt (``raw_readers/hapt.py`` describes how, and how they differ), and one .npz file of such rebuilt windows
(``raw_readers/windows_npz.py``). A prepared folder with rebuilt windows records this as a known fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import Dataset, IntArray, LazyArray, StoredArray
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile, read_text
from fedrecon_core.preparation.feature_rows import file_states, rows_version
from fedrecon_core.preparation.raw_dataset import RawDataset, RowReader
from fedrecon_core.preparation.raw_readers import hapt, uci_inertial, windows_npz
from fedrecon_core.registry import DATASETS
from fedrecon_core.seeding import numpy_stream
from fedrecon_core.types import DatasetSpec, Likelihood, ModalitySpec, StrictModel

CLASSES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
TEST = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""The official test subjects of UCI-HAR, and of HAPT."""
VALIDATION = (7, 16, 23, 29)
"""Every fifth of the 21 official training subjects in ascending order; fixed, whatever the seed."""
AXES = 3
FLAT = 1e-5
"""Added by the benchmark to a standard deviation before dividing by it."""
OFFICIAL = 10_299
"""Number of windows in UCI-HAR's files."""
OVERLAP = (
    "protocol fedmultimodal: validation is 20% of the windows of each training subject, drawn at random, as in the "
    "benchmark; a window shares half of its values with the next one, so validation windows overlap training windows "
    "of the same subject, and the validation score is too high. The test subjects are not affected."
)


class UciHarRaw(StrictModel):
    """``layout``: ``uci``, ``hapt`` or ``npz``; default: the one found. ``total``: add total acceleration as channels 3
    to 5 of ``acc``, after body acceleration. ``validation``: the training subjects held out for validation."""

    layout: Literal["auto", "uci", "hapt", "npz"] = "auto"
    total: bool = False
    validation: tuple[int, ...] = VALIDATION


class UciHarParams(DataParams):
    """``protocol: fedmultimodal`` uses body acceleration, z-normalizes every axis of every window, and draws validation
    windows from the training subjects with the run's seed instead of holding out subjects."""

    protocol: Literal["default", "fedmultimodal"] = "default"


@DATASETS.register("uci_har")
class UciHar(PreparedLoader):
    """Windows of 128 values at 50 Hz: ``acc`` in g and ``gyro`` in rad/s, scaled federation-wide. Clusters and natural
    ids are the subjects; the official test subjects are the test split, four training subjects the validation split."""

    Params = UciHarParams
    Raw = UciHarRaw
    name = "uci_har"
    modalities = ("acc", "gyro")

    @classmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        """The files of the layout that is found."""
        if not raw.is_dir():
            return []  # reported by `file_faults`
        checked = cast(UciHarRaw, keys)
        return _EXPECTED[_layout(checked, raw)](checked, raw)

    @classmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """Read the windows of the layout that is found; ``DataError`` naming an invalid file."""
        checked = cast(UciHarRaw, keys)
        layout = _layout(checked, raw)
        files = [raw / one.path for one in cls.expected_files(checked, raw)]
        version = rows_version((), (layout, checked.total, *file_states(raw, files)))
        samples, rows, names = _OF[layout](checked, raw)
        count = len(samples.ids)
        found = f"layout {layout}: {_SOURCE[layout]}, {count:,} windows"
        raw_data = RawDataset(_spec(checked.total), samples, rows, names=names, version=version)
        rebuilt = (
            f"layout {layout}: the {count:,} windows are rebuilt from the recordings of HAPT; the official files of "
            f"UCI-HAR have {OFFICIAL:,}, with other cuts and labels, so scores are not comparable with those on the "
            "official windows."
        )
        return replace(raw_data, faults=() if layout == "uci" else (rebuilt,), found=found)

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Open the prepared folder; ``seed`` only matters with protocol ``fedmultimodal``."""
        dataset = self.open(root)
        if cast(UciHarParams, params).protocol == "default":
            return dataset
        return _apply_benchmark_protocol(dataset, seed)


_SOURCE = {"uci": "the files of UCI-HAR", "hapt": "the recordings of HAPT", "npz": windows_npz.FILE}
"""Layout -> description of its files."""


def _layout(keys: UciHarRaw, raw: Path) -> str:
    folders = (("uci", "train"), ("hapt", "RawData"))
    found = [name for name, part in folders if (raw / part).is_dir()]
    found += ["npz"] if (raw / windows_npz.FILE).is_file() else []
    if keys.layout != "auto":
        return keys.layout
    if len(found) == 1:
        return found[0]
    expected = f"--raw {raw}: expected UCI-HAR (a folder train), HAPT (a folder RawData) or {windows_npz.FILE}"
    if found:
        raise DataError(f"{expected}, found {' and '.join(found)}; set layout to one of them")
    raise DataError(f"{expected}, found none of them; name the folder that contains the unpacked official archive")


def _spec(total: bool) -> DatasetSpec:
    channels = {"acc": 2 * AXES if total else AXES, "gyro": AXES}
    return DatasetSpec(
        name=UciHar.name,
        modalities=tuple(
            ModalitySpec(
                name=name,
                kind="sequence",
                shape=(uci_inertial.WINDOW, width),
                likelihood=Likelihood(),
                scale="standard",
            )
            for name, width in channels.items()
        ),
        classes=CLASSES,
    )


def _refuse_other_classes(path: Path) -> None:
    """Raise ``DataError`` unless the six basic activities come first, in the official order."""
    lines = [" ".join(line.split()) for line in read_text(path).splitlines() if line.strip()]
    for number, name in enumerate(CLASSES, start=1):
        found = lines[number - 1] if len(lines) >= number else "nothing"
        if found != f"{number} {name}":
            raise DataError(f"{path}: expected '{number} {name}', found '{found}'; fetch it again")


Found = tuple[Samples, dict[str, RowReader], list[str]]


def _of_uci(keys: UciHarRaw, raw: Path) -> Found:
    """Read the windows of the official UCI-HAR files."""
    _refuse_other_classes(raw / "activity_labels.txt")
    windows = uci_inertial.read_windows(raw)
    both = sorted(set(windows.subject[windows.part == 0].tolist()) & set(windows.subject[windows.part == 1].tolist()))
    if both:
        raise DataError(f"{raw}: expected each subject in train or in test, found {both[0]} in both; fetch it again")
    ids = np.arange(len(windows.row), dtype=np.int64)
    split = _set_aside(keys, np.where(windows.part == 1, 2, 0).astype(np.int64), windows.subject)
    places = zip(windows.part.tolist(), windows.row.tolist(), strict=True)
    names = [f"window {row + 1} of {uci_inertial.PARTS[part]}" for part, row in places]
    return (
        _samples(ids, windows.activity, split, windows.subject),
        uci_inertial.readers(raw, windows, keys.total),
        names,
    )


def _of_hapt(keys: UciHarRaw, raw: Path) -> Found:
    """Cut the windows from HAPT's recordings; an id is 1,000,000 times the experiment plus the first row."""
    _refuse_other_classes(raw / "activity_labels.txt")
    windows = hapt.read_windows(raw)
    split = _set_aside(keys, np.where(np.isin(windows.user, TEST), 2, 0).astype(np.int64), windows.user)
    ids = windows.experiment * 1_000_000 + windows.start
    places = zip(windows.experiment.tolist(), windows.start.tolist(), strict=True)
    names = [f"experiment {experiment}, rows from {start + 1}" for experiment, start in places]
    return _samples(ids, windows.activity, split, windows.user), hapt.readers(raw, windows, keys.total), names


def _of_npz(keys: UciHarRaw, raw: Path) -> Found:
    """Read the windows of an .npz file; ids are their positions."""
    windows = windows_npz.read_windows(raw, CLASSES)
    split = _set_aside(keys, windows.split, windows.subject)
    ids = np.arange(len(split), dtype=np.int64)
    names = [f"window {number} of {windows_npz.FILE}" for number in ids.tolist()]
    rows = windows_npz.readers(raw, len(split), keys.total)
    return _samples(ids, windows.activity, split, windows.subject), rows, names


_OF = {"uci": _of_uci, "hapt": _of_hapt, "npz": _of_npz}
_EXPECTED: dict[str, Callable[[UciHarRaw, Path], list[ExpectedFile]]] = {
    "uci": lambda keys, raw: uci_inertial.expected_files(keys.total),
    "hapt": lambda keys, raw: hapt.expected_files(raw),
    "npz": lambda keys, raw: windows_npz.expected_files(),
}


def _set_aside(keys: UciHarRaw, split: IntArray, subjects: IntArray) -> IntArray:
    """Move the validation subjects from the training split to the validation split."""
    training = set(subjects[split == 0].tolist())
    wrong = [subject for subject in keys.validation if subject not in training]
    if wrong or not keys.validation or set(keys.validation) == training:
        found = f"{wrong[0]}" if wrong else ("all of them" if keys.validation else "none")
        known = ", ".join(map(str, sorted(training)))
        raise DataError(f"validation: expected some of the training subjects ({known}), found {found}")
    return np.where(np.isin(subjects, keys.validation), 1, split).astype(np.int64)


def _samples(ids: IntArray, labels: IntArray, split: IntArray, subjects: IntArray) -> Samples:
    return Samples(ids, labels, split, subjects, np.ones((len(ids), 2), dtype=np.bool_))


class OwnNorm(LazyArray):
    """The first three channels of windows [N, T, D], each z-normalized within its window when it is read."""

    def __init__(self, stored: StoredArray) -> None:
        super().__init__((*stored.shape[:2], AXES))
        self._stored = stored

    def _take(self, rows: IntArray) -> NDArray[np.float32]:
        windows = np.asarray(self._stored[rows])[..., :AXES].astype(np.float64)
        centred = windows - windows.mean(axis=-2, keepdims=True)
        return np.asarray(centred / (windows.std(axis=-2, keepdims=True) + FLAT), dtype=np.float32)


def _apply_benchmark_protocol(dataset: Dataset, seed: int) -> Dataset:
    split = dataset.split.copy()
    training = split < 2
    split[training] = 0
    for subject in np.unique(dataset.cluster_ids[training]).tolist():  # a fifth of each subject's windows
        members = np.flatnonzero(training & (dataset.cluster_ids == subject))
        drawn = numpy_stream(seed, "uci_har", "validation", subject).permutation(members)
        split[drawn[: len(members) // 5]] = 1
    plain = {"shape": (uci_inertial.WINDOW, AXES), "scale": "none"}
    modalities = tuple(modality.model_copy(update=plain) for modality in dataset.spec.modalities)
    return replace(
        dataset,
        spec=dataset.spec.model_copy(update={"modalities": modalities}),
        arrays={name: OwnNorm(array) for name, array in dataset.arrays.items()},
        split=split,
        faults=(*dataset.faults, OVERLAP),
    )

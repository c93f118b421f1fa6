"""Data set ``uci_har``: acceleration and angular velocity of a phone at the waist, 30 subjects, six activities.

There are three layouts of the raw files: UCI-HAR's own windows, the raw recordings of HAPT, from which the windows are
rebuilt (``raw_readers/hapt.py`` describes how, and how they differ), and one .npz file of such rebuilt windows
(``raw_readers/har_windows.py``). A prepared folder with rebuilt windows records this as a known fault.
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
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import file_states, rows_version
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.preparation.raw_readers import hapt, har_windows
from fedrecon_core.preparation.raw_readers.har_windows import AXES, CLASSES, WINDOW, Windows
from fedrecon_core.registry import DATASETS
from fedrecon_core.seeding import numpy_stream
from fedrecon_core.types import DatasetSpec, Likelihood, ModalitySpec, StrictModel

VALIDATION = (7, 16, 23, 29)
"""Every fifth of the 21 official training subjects in ascending order; fixed, whatever the seed."""
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
        layout = _layout(checked, raw)
        if layout == "uci":
            return har_windows.expected_text_files(checked.total)
        if layout == "hapt":
            return hapt.expected_files(raw)
        return [ExpectedFile(har_windows.NPZ_FILE, "windows of acc and gyro with label, subject and split")]

    @classmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """Read the windows of the layout that is found; ``DataError`` naming an invalid file."""
        checked = cast(UciHarRaw, keys)
        layout = _layout(checked, raw)
        files = [raw / file.path for file in cls.expected_files(checked, raw)]
        version = rows_version((), (layout, checked.total, *file_states(raw, files)))
        read, source = _LAYOUTS[layout]
        windows = read(raw, checked.total)
        split = _validation_split(checked, windows.split, windows.subject)
        count = len(windows.ids)
        present = np.ones((count, len(cls.modalities)), dtype=np.bool_)
        rebuilt = (
            f"layout {layout}: the {count:,} windows are rebuilt from the recordings of HAPT; the official files of "
            f"UCI-HAR have {OFFICIAL:,}, with other cuts and labels, so scores are not comparable with those on the "
            "official windows."
        )
        return RawDataset(
            spec=_spec(checked.total),
            samples=Samples(windows.ids, windows.activity, split, windows.subject, present),
            rows=windows.rows,
            names=windows.names,
            version=version,
            faults=() if layout == "uci" else (rebuilt,),
            found=f"layout {layout}: {source}, {count:,} windows",
        )

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Open the prepared folder; ``seed`` only matters with protocol ``fedmultimodal``."""
        dataset = self.open(root)
        if cast(UciHarParams, params).protocol == "default":
            return dataset
        return _apply_benchmark_protocol(dataset, seed)


_LAYOUTS: dict[str, tuple[Callable[[Path, bool], Windows], str]] = {
    "uci": (har_windows.read_text_windows, "the files of UCI-HAR"),
    "hapt": (hapt.read_windows, "the recordings of HAPT"),
    "npz": (har_windows.read_npz_windows, har_windows.NPZ_FILE),
}
"""Layout -> reader of its windows, and description of its files."""


def _layout(keys: UciHarRaw, raw: Path) -> str:
    folders = (("uci", "train"), ("hapt", "RawData"))
    found = [name for name, part in folders if (raw / part).is_dir()]
    found += ["npz"] if (raw / har_windows.NPZ_FILE).is_file() else []
    if keys.layout != "auto":
        return keys.layout
    if len(found) == 1:
        return found[0]
    expected = f"--raw {raw}: expected UCI-HAR (a folder train), HAPT (a folder RawData) or {har_windows.NPZ_FILE}"
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
                shape=(WINDOW, width),
                likelihood=Likelihood(),
                scale="standard",
            )
            for name, width in channels.items()
        ),
        classes=CLASSES,
    )


def _validation_split(keys: UciHarRaw, split: IntArray, subjects: IntArray) -> IntArray:
    """Move the validation subjects from the training split to the validation split."""
    training = set(subjects[split == 0].tolist())
    wrong = [subject for subject in keys.validation if subject not in training]
    if wrong or not keys.validation or set(keys.validation) == training:
        found = f"{wrong[0]}" if wrong else ("all of them" if keys.validation else "none")
        expected = f"expected some of the training subjects ({', '.join(map(str, sorted(training)))})"
        raise DataError(f"validation: {expected}, found {found}")
    return np.where(np.isin(subjects, keys.validation), 1, split).astype(np.int64)


class OwnNorm(LazyArray):
    """The first three channels of windows [N, T, D], each z-normalized within its window when it is read."""

    def __init__(self, stored: StoredArray) -> None:
        super().__init__((*stored.shape[:2], AXES))
        self._stored = stored

    def _take(self, rows: IntArray) -> NDArray[np.float32]:
        windows = np.asarray(self._stored[rows])[..., :AXES].astype(np.float64)
        centered = windows - windows.mean(axis=-2, keepdims=True)
        return np.asarray(centered / (windows.std(axis=-2, keepdims=True) + FLAT), dtype=np.float32)


def _apply_benchmark_protocol(dataset: Dataset, seed: int) -> Dataset:
    split = dataset.split.copy()
    training = split < 2
    split[training] = 0
    for subject in np.unique(dataset.cluster_ids[training]).tolist():  # a fifth of each subject's windows
        members = np.flatnonzero(training & (dataset.cluster_ids == subject))
        drawn = numpy_stream(seed, "uci_har", "validation", subject).permutation(members)
        split[drawn[: len(members) // 5]] = 1
    plain = {"shape": (WINDOW, AXES), "scale": "none"}
    modalities = tuple(modality.model_copy(update=plain) for modality in dataset.spec.modalities)
    return replace(
        dataset,
        spec=dataset.spec.model_copy(update={"modalities": modalities}),
        arrays={name: OwnNorm(array) for name, array in dataset.arrays.items()},
        split=split,
        faults=(*dataset.faults, OVERLAP),
    )

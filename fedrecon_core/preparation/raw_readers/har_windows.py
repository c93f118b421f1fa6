"""Windows of UCI-HAR, from the official text files (one per signal and axis in train/ and test/Inertial Signals/) or
from one .npz file of windows rebuilt from HAPT's recordings.

Arrays of the .npz file: ``acc`` [N, 128, 6] (body, then total), ``gyro`` [N, 128, 3], ``label`` 0 to 5, ``subject``,
``split`` (0 training, 2 test).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.files import read_text
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.raw_dataset import RowReader
from fedrecon_core.preparation.raw_readers.npz_file import NpzFile
from fedrecon_core.preparation.raw_readers.number_tables import read_integers, read_numbers

CLASSES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
WINDOW = 128
"""Values per window, at 50 Hz."""
AXES = 3
PARTS = ("train", "test")
SIGNALS = {"acc": ("body_acc",), "gyro": ("body_gyro",)}
TOTAL = "total_acc"
NPZ_FILE = "hapt_ucihar.npz"
NPZ_SPLITS = (0, 2)


@dataclass(frozen=True)
class Windows:
    """All windows of a raw folder, int64 [N] each: ``ids``, ``activity`` (position in ``CLASSES``), ``subject``, and
    the official ``split`` (0 training, 2 test). ``names``: for messages. ``rows``: modality -> reader."""

    ids: IntArray
    activity: IntArray
    subject: IntArray
    split: IntArray
    names: list[str]
    rows: Mapping[str, RowReader]


def check_class_names(path: Path) -> None:
    """Raise ``DataError`` unless the six basic activities come first, in the official order."""
    lines = [" ".join(line.split()) for line in read_text(path).splitlines() if line.strip()]
    for number, name in enumerate(CLASSES, start=1):
        found = lines[number - 1] if len(lines) >= number else "nothing"
        if found != f"{number} {name}":
            raise DataError(f"{path}: expected '{number} {name}', found '{found}'; fetch it again")


# --- official text files ----------------------------------------------------------------------------------------------


def signal_files(modality: str, part: str, total: bool) -> dict[str, str]:
    """The files of a modality's channels in order -> their description. With ``total``, total acceleration follows body
    acceleration."""
    signals = (*SIGNALS[modality], TOTAL) if total and modality == "acc" else SIGNALS[modality]
    return {
        f"{part}/Inertial Signals/{signal}_{axis}_{part}.txt": f"{signal}, axis {axis}, one window per row"
        for signal in signals
        for axis in "xyz"
    }


def expected_text_files(total: bool) -> list[ExpectedFile]:
    """The files of the official layout."""
    files = [ExpectedFile("activity_labels.txt", "the names of UCI-HAR's activities")]
    for part in PARTS:
        files.append(ExpectedFile(f"{part}/y_{part}.txt", "the activity of each window, 1 to 6"))
        files.append(ExpectedFile(f"{part}/subject_{part}.txt", "the subject of each window"))
        for modality in SIGNALS:
            files += [ExpectedFile(path, what) for path, what in signal_files(modality, part, total).items()]
    return files


def read_text_windows(raw: Path, total: bool) -> Windows:
    """Read the official files; ids are positions, the training part first. ``DataError`` naming an invalid file."""
    check_class_names(raw / "activity_labels.txt")
    activities, subjects = [], []
    for part in PARTS:
        path = raw / part / f"y_{part}.txt"
        activity = read_integers(path, 1)[:, 0]
        wrong = activity[(activity < 1) | (activity > len(CLASSES))]
        if len(wrong):
            raise DataError(f"{path}: expected activities from 1 to {len(CLASSES)}, found {wrong[0]}; fetch it again")
        activities.append(activity - 1)
        subjects.append(read_integers(raw / part / f"subject_{part}.txt", 1)[:, 0])
        _check_length(raw / part / f"subject_{part}.txt", len(subjects[-1]), len(activity), part)
    if both := sorted(set(subjects[0].tolist()) & set(subjects[1].tolist())):
        raise DataError(f"{raw}: expected each subject in train or in test, found {both[0]} in both; fetch it again")
    counts = [len(activity) for activity in activities]

    @lru_cache(maxsize=1)  # the files of one part and modality are in memory together
    def channels(modality: str, part: int) -> NDArray[np.float32]:
        columns = []
        for name in signal_files(modality, PARTS[part], total):
            columns.append(read_numbers(raw / name, WINDOW).astype(np.float32))
            _check_length(raw / name, len(columns[-1]), counts[part], PARTS[part])
        return np.stack(columns, axis=2)

    def reader(modality: str) -> RowReader:
        return lambda samples: [
            channels(modality, 0)[sample] if sample < counts[0] else channels(modality, 1)[sample - counts[0]]
            for sample in samples.tolist()
        ]

    return Windows(
        ids=np.arange(sum(counts), dtype=np.int64),
        activity=np.concatenate(activities),
        subject=np.concatenate(subjects),
        split=np.repeat([0, 2], counts).astype(np.int64),
        names=[f"window {row + 1} of {part}" for part, n in zip(PARTS, counts, strict=True) for row in range(n)],
        rows={modality: reader(modality) for modality in SIGNALS},
    )


def _check_length(path: Path, found: int, wanted: int, part: str) -> None:
    if found != wanted:
        raise DataError(f"{path}: expected {wanted} rows as in y_{part}.txt, found {found}; fetch both again")


# --- one .npz file ----------------------------------------------------------------------------------------------------


def read_npz_windows(raw: Path, total: bool) -> Windows:
    """Read the .npz file; ids are positions. ``DataError`` naming an invalid array."""
    file = NpzFile(raw / NPZ_FILE)
    names = tuple(file.column("label_names", "label_names", "U", None).tolist())
    if names != CLASSES:
        raise DataError(f"{file.path}: label_names: expected {', '.join(CLASSES)}, found {', '.join(names)}")
    count = len(file.column("label", "label", "iu", None))
    columns = {name: file.codes(name, name, count) for name in ("label", "subject", "split")}
    for name, allowed in (("label", range(len(CLASSES))), ("split", NPZ_SPLITS)):
        wrong = sorted(set(columns[name].tolist()) - set(allowed))
        if wrong:
            raise DataError(f"{file.path}: {name}: expected one of {list(allowed)}, found {wrong[0]}")
    both = np.intersect1d(*(columns["subject"][columns["split"] == split] for split in NPZ_SPLITS))
    if len(both):
        raise DataError(f"{file.path}: split: expected each subject in one split, found {both[0]} in both")

    def reader(name: str, channels: int) -> RowReader:
        windows: NDArray[np.floating] = file.of(name, name, "f", count)
        if windows.shape[1:2] != (WINDOW,) or windows.ndim != 3 or windows.shape[2] < channels:
            expected = f"[{count}, {WINDOW}, {channels} or more]"
            raise DataError(f"{file.path}: {name}: expected {expected}, found {list(windows.shape)}")
        values = windows[..., :channels].astype(np.float32)
        return lambda samples: list(values[samples])

    return Windows(
        ids=np.arange(count, dtype=np.int64),
        activity=columns["label"],
        subject=columns["subject"],
        split=columns["split"],
        names=[f"window {number} of {NPZ_FILE}" for number in range(count)],
        rows={"acc": reader("acc", 2 * AXES if total else AXES), "gyro": reader("gyro", AXES)},
    )

"""Reader of the official UCI-HAR layout: a text file per signal and axis (train/ and test/Inertial Signals/)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.raw_dataset import RowReader
from fedrecon_core.preparation.raw_readers.number_tables import read_integers, read_numbers

WINDOW = 128
"""Values per window, at 50 Hz."""
PARTS = ("train", "test")
CLASSES = 6
SIGNALS = {"acc": ("body_acc",), "gyro": ("body_gyro",)}
TOTAL = "total_acc"


def signals_of(modality: str, total: bool) -> tuple[str, ...]:
    """Return the signals whose three axes are the modality's channels, in order."""
    return (*SIGNALS[modality], TOTAL) if total and modality == "acc" else SIGNALS[modality]


def expected_files(total: bool) -> list[ExpectedFile]:
    """Return the files of the layout."""
    listed = [ExpectedFile("activity_labels.txt", "the names of UCI-HAR's activities")]
    for part in PARTS:
        listed.append(ExpectedFile(f"{part}/y_{part}.txt", "the activity of each window, 1 to 6"))
        listed.append(ExpectedFile(f"{part}/subject_{part}.txt", "the subject of each window"))
        for signal in dict.fromkeys(name for m in SIGNALS for name in signals_of(m, total)):
            listed += [
                ExpectedFile(_path(signal, axis, part), f"{signal}, axis {axis}, one window per row") for axis in "xyz"
            ]
    return listed


def _path(signal: str, axis: str, part: str) -> str:
    return f"{part}/Inertial Signals/{signal}_{axis}_{part}.txt"


@dataclass(frozen=True)
class Windows:
    """All windows, the training part first, int64 [N] each: ``activity`` 0 to 5, ``subject``, ``part`` 0 train or 1
    test, ``row`` in the files of its part."""

    activity: IntArray
    subject: IntArray
    part: IntArray
    row: IntArray


def read_windows(raw: Path) -> Windows:
    """Read activity, subject and part of every window; ``DataError`` naming an invalid file."""
    activities, subjects = [], []
    for part in PARTS:
        path = raw / part / f"y_{part}.txt"
        activity = read_integers(path, 1)[:, 0]
        wrong = activity[(activity < 1) | (activity > CLASSES)]
        if len(wrong):
            raise DataError(f"{path}: expected activities from 1 to {CLASSES}, found {wrong[0]}; fetch it again")
        activities.append(activity - 1)
        subjects.append(read_integers(raw / part / f"subject_{part}.txt", 1)[:, 0])
        _refuse_other_length(raw / part / f"subject_{part}.txt", len(subjects[-1]), len(activity), part)
    counts = [len(activity) for activity in activities]
    row = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    return Windows(np.concatenate(activities), np.concatenate(subjects), np.repeat(np.arange(2), counts), row)


def readers(raw: Path, windows: Windows, total: bool) -> dict[str, RowReader]:
    """Return modality -> reader of its windows. The files of one part and modality are in memory together."""

    @lru_cache(maxsize=1)
    def channels(modality: str, part: int) -> NDArray[np.float32]:
        name, wanted = PARTS[part], int((windows.part == part).sum())
        columns = []
        for signal in signals_of(modality, total):
            for axis in "xyz":
                path = raw / _path(signal, axis, name)
                columns.append(read_numbers(path, WINDOW).astype(np.float32))
                _refuse_other_length(path, len(columns[-1]), wanted, name)
        return np.stack(columns, axis=2)

    def reader(modality: str) -> RowReader:
        return lambda samples: [
            channels(modality, int(windows.part[sample]))[windows.row[sample]] for sample in samples.tolist()
        ]

    return {modality: reader(modality) for modality in SIGNALS}


def _refuse_other_length(path: Path, found: int, wanted: int, part: str) -> None:
    if found != wanted:
        raise DataError(f"{path}: expected {wanted} rows as in y_{part}.txt, found {found}; fetch both again")

"""Windows of the raw recordings of HAPT (RawData/), cut like those of UCI-HAR.

The original processing (README of both sets; Anguita et al. 2013, Reyes-Ortiz et al. 2016): acceleration and angular
velocity at 50 Hz; a median filter and a third-order low-pass Butterworth filter of 20 Hz against noise; a Butterworth
low-pass of 0.3 Hz whose output is gravity, the rest being body acceleration; windows of 2.56 s (128 values) that
overlap by half.

Choices where the original is unspecified: the median is over 3 values; filters act on whole recordings, so no window
has their edge effects; they run forwards and backwards, so there is no time shift; the gravity filter is of third order
too; a window is inside one labeled segment, and the first one starts with the segment. The windows therefore differ
from the official UCI-HAR files: there are 10,411 of the six basic activities (7,415 of training subjects, 2,996 of test
subjects) instead of 10,299 (7,352 and 2,947). HAPT was labeled again, so its segments differ from UCI-HAR's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.raw_dataset import FloatArray, RowReader
from fedrecon_core.preparation.raw_readers.har_windows import CLASSES, WINDOW, Windows, check_class_names
from fedrecon_core.preparation.raw_readers.number_tables import read_integers, read_numbers

RATE = 50.0
"""Hz."""
STEP = 64
NOISE, GRAVITY = 20.0, 0.3
"""Corner frequencies in Hz."""
ORDER = 3
ACTIVITIES = 12
"""Activities 1 to 6 are the classes of UCI-HAR; 7 to 12 are postural transitions and are left out."""
TEST = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""The official test subjects of UCI-HAR, and of HAPT."""
LABELS = "RawData/labels.txt"
SENSORS = {"acc": "the accelerometer", "gyro": "the gyroscope"}

Signal = NDArray[np.float64]


def denoise(signal: Signal) -> Signal:
    """Apply a median filter of 3 values and a zero-phase low-pass of 20 Hz. float64 [T, D], a column per axis."""
    from scipy.ndimage import median_filter

    return _low_pass(median_filter(signal, size=(3, 1), mode="nearest"), NOISE)


def body_and_total(acceleration: Signal) -> tuple[Signal, Signal]:
    """Return body and total acceleration of a raw recording, both float64 [T, D]; the difference is gravity."""
    total = denoise(acceleration)
    return total - _low_pass(total, GRAVITY), total


def _low_pass(signal: Signal, corner: float) -> Signal:
    from scipy.signal import butter, sosfiltfilt

    passed: Signal = sosfiltfilt(butter(ORDER, corner, fs=RATE, output="sos"), signal, axis=0)
    return passed


def window_starts(begin: int, end: int) -> IntArray:
    """Return the first rows, int64 [W], of the windows inside the rows ``begin`` to ``end - 1``."""
    return np.arange(begin, end - WINDOW + 1, STEP, dtype=np.int64)


def recording(kind: str, experiment: int, user: int) -> str:
    """Return the path of a recording (``acc`` or ``gyro``) relative to the raw folder."""
    return f"RawData/{kind}_exp{experiment:02d}_user{user:02d}.txt"


def expected_files(raw: Path) -> list[ExpectedFile]:
    """Return the files of the layout; ``labels.txt`` lists the recordings."""
    labels = [
        ExpectedFile("activity_labels.txt", "the names of HAPT's activities"),
        ExpectedFile(LABELS, "the segments of HAPT (experiment, user, activity, first and last row)"),
    ]
    if not (raw / LABELS).is_file():
        all_of = ((kind, f"the recordings of {sensor}") for kind, sensor in SENSORS.items())
        return labels + [ExpectedFile(f"RawData/{kind}_exp*_user*.txt", what) for kind, what in all_of]
    return labels + [
        ExpectedFile(recording(kind, experiment, user), f"{sensor} of experiment {experiment}, listed in {LABELS}")
        for experiment, user in np.unique(_segments(raw)[:, :2], axis=0).tolist()
        for kind, sensor in SENSORS.items()
    ]


def read_windows(raw: Path, total: bool) -> Windows:
    """Cut the windows of the basic activities, by experiment and then in the order of ``labels.txt``. With ``total``,
    total acceleration follows body acceleration.

    An id is 1,000,000 times the experiment plus the first row. The last filtered recording is kept in memory.
    """
    check_class_names(raw / "activity_labels.txt")
    segments = _segments(raw)
    basic = segments[segments[:, 2] <= len(CLASSES)]
    ordered = basic[np.argsort(basic[:, 0], kind="stable")]
    starts = [window_starts(first - 1, last) for first, last in ordered[:, 3:].tolist()]  # rows are counted from 1
    experiment, user, activity = np.repeat(ordered[:, :3], [len(found) for found in starts], axis=0).T
    if not len(experiment):
        raise DataError(f"{raw / LABELS}: expected segments of {WINDOW} rows or more, found none")
    start = np.concatenate(starts)

    @lru_cache(maxsize=1)
    def acceleration(path: Path) -> Signal:
        body, whole = body_and_total(_read_recording(path))
        return np.concatenate([body, whole], axis=1) if total else body

    @lru_cache(maxsize=1)
    def rotation(path: Path) -> Signal:
        return denoise(_read_recording(path))

    def reader(kind: str, filtered: Callable[[Path], Signal]) -> RowReader:
        def window(sample: int) -> FloatArray:
            path = raw / recording(kind, experiment[sample], user[sample])
            signal, end = filtered(path), start[sample] + WINDOW
            if end > len(signal):
                expected = f"expected at least {end} rows, as {LABELS} says"
                raise DataError(f"{path}: {expected}, found {len(signal)}; fetch it again")
            return signal[start[sample] : end].astype(np.float32)

        return lambda samples: [window(sample) for sample in samples.tolist()]

    return Windows(
        ids=experiment * 1_000_000 + start,
        activity=activity - 1,
        subject=user,
        split=np.where(np.isin(user, TEST), 2, 0).astype(np.int64),
        names=[
            f"experiment {number}, rows from {row + 1}"
            for number, row in zip(experiment.tolist(), start.tolist(), strict=True)
        ],
        rows={"acc": reader("acc", acceleration), "gyro": reader("gyro", rotation)},
    )


def _segments(raw: Path) -> IntArray:
    """int64 [S, 5]: experiment, user, activity, first and last row, both counted from 1."""
    path = raw / LABELS
    segments = read_integers(path, 5)
    # Segments of one experiment must not share rows: a window would have two labels.
    order = np.lexsort((segments[:, 3], segments[:, 0]))
    before, after = segments[order[:-1]], segments[order[1:]]
    overlaps = np.zeros(len(segments), dtype=np.bool_)
    overlaps[order[1:]] = (before[:, 0] == after[:, 0]) & (after[:, 3] <= before[:, 4])
    for wrong, expected in (
        ((segments[:, 2] < 1) | (segments[:, 2] > ACTIVITIES), f"an activity from 1 to {ACTIVITIES}"),
        ((segments[:, 3] < 1) | (segments[:, 4] < segments[:, 3]), "first row <= last row, from 1"),
        (overlaps, "a segment after the end of the previous one"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            found = " ".join(map(str, segments[row].tolist()))
            raise DataError(f"{path}: row {row + 1}: expected {expected}, found {found}")
    return segments


def _read_recording(path: Path) -> Signal:
    signal = read_numbers(path, 3)
    if len(signal) < WINDOW:
        raise DataError(f"{path}: expected at least {WINDOW} rows, found {len(signal)}; fetch it again")
    return signal

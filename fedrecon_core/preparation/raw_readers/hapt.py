"""Windows of the raw recordings of HAPT (RawData/), made like those of UCI-HAR.

The original processing (README of both sets; Anguita et al. 2013, Reyes-Ortiz et al. 2016): acceleration and angular
velocity at 50 Hz; a median filter and a third-order low-pass Butterworth filter of 20 Hz against noise; a Butterworth
low-pass of 0.3 Hz whose output is gravity, the rest being body acceleration; windows of 2.56 s (128 values) that
overlap by half.

Choices where the original is unspecified: the median is over 3 values; filters act on whole recordings, so no window
has their edge effects; they run forwards and backwards, so there is no time shift; the gravity filter is of third order
too; a window is inside one labelled segment, and the first one starts with the segment. The windows therefore differ
from the official UCI-HAR files: there are 10,411 of the six basic activities (7,415 of training subjects, 2,996 of test
subjects) instead of 10,299 (7,352 and 2,947). HAPT was labelled again, so its segments differ from UCI-HAR's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.raw_dataset import FloatArray, RowReader
from fedrecon_core.preparation.raw_readers.number_tables import read_integers, read_numbers
from fedrecon_core.preparation.raw_readers.uci_inertial import WINDOW

RATE = 50.0
"""Hz."""
STEP = 64
NOISE, GRAVITY = 20.0, 0.3
"""Corner frequencies in Hz."""
ORDER = 3
BASIC = 6
"""Activities 1 to 6 are the classes of UCI-HAR; 7 to 12 are postural transitions and are left out."""
ACTIVITIES = 12
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


@dataclass(frozen=True)
class Windows:
    """The windows of all recordings, int64 [N] each. ``experiment`` and ``user`` as in the file names, ``activity`` 0
    to 5, ``start`` the first row in the recording."""

    experiment: IntArray
    user: IntArray
    activity: IntArray
    start: IntArray


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


def read_windows(raw: Path) -> Windows:
    """Return the windows of the basic activities, by experiment and then in the order of ``labels.txt``."""
    segments = _segments(raw)
    basic = segments[segments[:, 2] <= BASIC]
    ordered = basic[np.argsort(basic[:, 0], kind="stable")]
    starts = [window_starts(first - 1, last) for first, last in ordered[:, 3:].tolist()]  # rows are counted from 1
    repeated = np.repeat(ordered, [len(found) for found in starts], axis=0)
    if not len(repeated):
        raise DataError(f"{raw / LABELS}: expected segments of {WINDOW} rows or more, found none")
    return Windows(repeated[:, 0], repeated[:, 1], repeated[:, 2] - 1, np.concatenate(starts))


def _segments(raw: Path) -> IntArray:
    """int64 [S, 5]: experiment, user, activity, first and last row, both counted from 1."""
    path = raw / LABELS
    segments = read_integers(path, 5)
    _refuse(path, segments, (segments[:, 2] < 1) | (segments[:, 2] > ACTIVITIES), f"an activity from 1 to {ACTIVITIES}")
    _refuse(path, segments, (segments[:, 3] < 1) | (segments[:, 4] < segments[:, 3]), "first row <= last row, from 1")
    # Segments of one experiment must not share rows: a window would have two labels.
    order = np.lexsort((segments[:, 3], segments[:, 0]))
    before, after = segments[order[:-1]], segments[order[1:]]
    overlaps = np.zeros(len(segments), dtype=np.bool_)
    overlaps[order[1:]] = (before[:, 0] == after[:, 0]) & (after[:, 3] <= before[:, 4])
    _refuse(path, segments, overlaps, "a segment after the end of the previous one")
    return segments


def _refuse(path: Path, segments: IntArray, wrong: NDArray[np.bool_], expected: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = " ".join(map(str, segments[row].tolist()))
        raise DataError(f"{path}: row {row + 1}: expected {expected}, found {found}")


def readers(raw: Path, windows: Windows, total: bool) -> dict[str, RowReader]:
    """Return modality -> reader of its windows. The last filtered recording is kept in memory. With ``total``, total
    acceleration follows body acceleration."""

    @lru_cache(maxsize=1)
    def acceleration(experiment: int, user: int) -> Signal:
        body, whole = body_and_total(_recorded(raw / recording("acc", experiment, user)))
        return np.concatenate([body, whole], axis=1) if total else body

    @lru_cache(maxsize=1)
    def rotation(experiment: int, user: int) -> Signal:
        return denoise(_recorded(raw / recording("gyro", experiment, user)))

    def reader(kind: str, of: Callable[[int, int], Signal]) -> RowReader:
        return lambda samples: [_cut(raw, kind, of, windows, sample) for sample in samples.tolist()]

    return {"acc": reader("acc", acceleration), "gyro": reader("gyro", rotation)}


def _recorded(path: Path) -> Signal:
    signal = read_numbers(path, 3)
    if len(signal) < WINDOW:
        raise DataError(f"{path}: expected at least {WINDOW} rows, found {len(signal)}; fetch it again")
    return signal


def _cut(raw: Path, kind: str, of: Callable[[int, int], Signal], windows: Windows, sample: int) -> FloatArray:
    experiment, user = int(windows.experiment[sample]), int(windows.user[sample])
    signal, start = of(experiment, user), int(windows.start[sample])
    if start + WINDOW > len(signal):
        path = raw / recording(kind, experiment, user)
        wanted = f"expected at least {start + WINDOW} rows, as {LABELS} says"
        raise DataError(f"{path}: {wanted}, found {len(signal)}; fetch it again")
    return signal[start : start + WINDOW].astype(np.float32)

"""The raw recordings of HAPT (RawData/), brought to windows as those of UCI-HAR were.

What the original did (README of both sets; Anguita et al. 2013, Reyes-Ortiz et al. 2016): acceleration and angular
velocity at 50 Hz, a median filter and a third-order low-pass Butterworth filter of 20 Hz against noise, a Butterworth
low-pass of 0.3 Hz whose output is gravity and the rest of the acceleration the body's, windows of 2.56 s (128 values)
that overlap by half.

What it leaves open, and what is done here: the median is over 3 values; filters act on whole recordings, so that no
window has an edge of theirs; they run forwards and backwards, without a shift in time; the gravity filter is of third
order too; a window lies wholly inside one labelled segment, the first one at the segment's start. So the windows are
not those of the official UCI-HAR files, to the number: the rebuild holds 10,411 of the six basic activities (7,415 of
the training subjects, 2,996 of the test subjects), the official files 10,299 (7,352 and 2,947). HAPT's labels were
made anew, so that segments begin and end elsewhere than UCI-HAR's.
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
"""Activities 1 to 6 are the classes of UCI-HAR; 7 to 12 are changes of posture and are left out."""
ACTIVITIES = 12
LABELS = "RawData/labels.txt"
SENSORS = {"acc": "the accelerometer", "gyro": "the gyroscope"}

Signal = NDArray[np.float64]


def without_noise(signal: Signal) -> Signal:
    """float64 [T, D], a column per axis: median of 3, then a low-pass of 20 Hz without a shift in time."""
    from scipy.ndimage import median_filter

    return _low_pass(median_filter(signal, size=(3, 1), mode="nearest"), NOISE)


def body_and_total(acceleration: Signal) -> tuple[Signal, Signal]:
    """The body's acceleration and the total one, both float64 [T, D], of a raw recording; the rest is gravity."""
    total = without_noise(acceleration)
    return total - _low_pass(total, GRAVITY), total


def _low_pass(signal: Signal, corner: float) -> Signal:
    from scipy.signal import butter, sosfiltfilt

    passed: Signal = sosfiltfilt(butter(ORDER, corner, fs=RATE, output="sos"), signal, axis=0)
    return passed


def window_starts(begin: int, end: int) -> IntArray:
    """int64 [W]: the first rows of the windows that lie wholly in the rows ``begin`` to ``end - 1``."""
    return np.arange(begin, end - WINDOW + 1, STEP, dtype=np.int64)


@dataclass(frozen=True)
class Windows:
    """The windows of all recordings, int64 [N] each: ``experiment`` and ``user`` as in the file names, ``activity`` 0
    to 5, ``start`` the first row in the recording."""

    experiment: IntArray
    user: IntArray
    activity: IntArray
    start: IntArray


def recording(kind: str, experiment: int, user: int) -> str:
    """The path of a recording (``acc`` or ``gyro``) below the raw folder."""
    return f"RawData/{kind}_exp{experiment:02d}_user{user:02d}.txt"


def expected_files(raw: Path) -> list[ExpectedFile]:
    """The files of the layout: which recordings there must be, ``labels.txt`` says."""
    labels = [
        ExpectedFile("activity_labels.txt", "the names of HAPT's activities"),
        ExpectedFile(LABELS, "the segments of HAPT (experiment, user, activity, first and last row)"),
    ]
    if not (raw / LABELS).is_file():
        all_of = ((kind, f"the recordings of {sensor}") for kind, sensor in SENSORS.items())
        return labels + [ExpectedFile(f"RawData/{kind}_exp*_user*.txt", what) for kind, what in all_of]
    return labels + [
        ExpectedFile(recording(kind, experiment, user), f"{sensor} of experiment {experiment}, which {LABELS} names")
        for experiment, user in np.unique(_segments(raw)[:, :2], axis=0).tolist()
        for kind, sensor in SENSORS.items()
    ]


def read_windows(raw: Path) -> Windows:
    """The windows of the basic activities, by experiment and then in the order of ``labels.txt``."""
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
    _refuse(path, segments, _begun_before_the_last_ended(segments), "a segment behind the one before it")
    return segments


def _begun_before_the_last_ended(segments: IntArray) -> NDArray[np.bool_]:
    """bool [S]: the segments that share rows with an earlier one of their experiment: two labels for one window."""
    order = np.lexsort((segments[:, 3], segments[:, 0]))
    before, after = segments[order[:-1]], segments[order[1:]]
    overlaps = np.zeros(len(segments), dtype=np.bool_)
    overlaps[order[1:]] = (before[:, 0] == after[:, 0]) & (after[:, 3] <= before[:, 4])
    return overlaps


def _refuse(path: Path, segments: IntArray, wrong: NDArray[np.bool_], expected: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = " ".join(map(str, segments[row].tolist()))
        raise DataError(f"{path}: row {row + 1}: expected {expected}, found {found}")


def readers(raw: Path, windows: Windows, total: bool) -> dict[str, RowReader]:
    """Modality -> what reads its windows; the recording that was filtered last is kept. ``total`` puts the total
    acceleration behind the body's."""

    @lru_cache(maxsize=1)
    def acceleration(experiment: int, user: int) -> Signal:
        body, whole = body_and_total(_recorded(raw / recording("acc", experiment, user)))
        return np.concatenate([body, whole], axis=1) if total else body

    @lru_cache(maxsize=1)
    def rotation(experiment: int, user: int) -> Signal:
        return without_noise(_recorded(raw / recording("gyro", experiment, user)))

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
        wanted = f"expected at least {start + WINDOW} rows, which {LABELS} speaks of"
        raise DataError(f"{path}: {wanted}, found {len(signal)}; fetch it again")
    return signal[start : start + WINDOW].astype(np.float32)

"""Small sets in the two official layouts of ``uci_har``: synthetic signals, eight subjects, six activities."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrecon_core.datasets.uci_har import UciHar
from fedrecon_core.preparation.raw_readers.har_windows import CLASSES
from fedrecon_core.preparation.writer import write_site_folder

TRAIN, TEST = (1, 3, 7, 16, 23, 29), (2, 4)
SEGMENT = 192
"""Rows of one activity of one subject: two windows of 128 that overlap by half."""
PAUSE = 40
"""Unlabelled rows before each segment."""
TRANSITIONS = ("STAND_TO_SIT", "SIT_TO_STAND", "SIT_TO_LIE", "LIE_TO_SIT", "STAND_TO_LIE", "LIE_TO_STAND")
SIGNALS = ("body_acc", "body_gyro", "total_acc")


def root(base: Path) -> Path:
    """The official UCI-HAR layout below ``base``, prepared."""
    return prepared(write_uci(base / "raw"), base / "prepared")


def prepared(raw: Path, out: Path, **keys: object) -> Path:
    """``raw`` as a folder in the site format."""
    write_site_folder(UciHar.read_raw(UciHar.Raw(**keys), raw, out.parent / "cache"), out, lambda *_: None)
    return out


def motion(subject: int, activity: int, rows: int) -> np.ndarray:
    """[rows, 3]: waves of the activity's own frequency about a gravity of 1, with noise."""
    draw = np.random.default_rng([subject, activity])
    seconds = np.arange(rows)[:, None] / 50
    waves = 0.3 * np.sin(2 * np.pi * (1 + activity) * seconds + draw.uniform(0, 6, size=3))
    return np.array([0.9, 0.1, 0.3]) + waves + 0.05 * draw.normal(size=(rows, 3))


def write_uci(raw: Path) -> Path:
    """UCI-HAR: windows as text, a file per signal and axis."""
    for part, subjects in (("train", TRAIN), ("test", TEST)):
        (raw / part / "Inertial Signals").mkdir(parents=True)
        found = [(s, a, start) for s in subjects for a in range(6) for start in (0, 64)]
        np.savetxt(raw / part / f"y_{part}.txt", [a + 1 for _, a, _ in found], fmt="%d")
        np.savetxt(raw / part / f"subject_{part}.txt", [s for s, _, _ in found], fmt="%d")
        for number, signal in enumerate(SIGNALS):
            windows = np.stack([motion(s + 100 * number, a, SEGMENT)[start : start + 128] for s, a, start in found])
            for axis, name in enumerate("xyz"):
                path = raw / part / "Inertial Signals" / f"{signal}_{name}_{part}.txt"
                np.savetxt(path, windows[:, :, axis], fmt=" %15.7e", delimiter="")
    (raw / "activity_labels.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(CLASSES, 1)))
    return raw


def write_hapt(raw: Path) -> Path:
    """HAPT: one recording per subject and sensor, the segments in ``labels.txt``, transitions among them."""
    (raw / "RawData").mkdir(parents=True)
    segments = []
    for experiment, subject in enumerate(sorted((*TRAIN, *TEST)), start=1):
        for kind, shift in (("acc", 0), ("gyro", 100)):
            pieces = [motion(subject + shift, activity, PAUSE + SEGMENT) for activity in range(7)]
            path = raw / "RawData" / f"{kind}_exp{experiment:02d}_user{subject:02d}.txt"
            np.savetxt(path, np.concatenate(pieces), fmt="%.16g")
        for activity in range(7):  # the seventh is a transition
            first = activity * (PAUSE + SEGMENT) + PAUSE + 1
            segments.append((experiment, subject, activity + 1, first, first + SEGMENT - 1))
    np.savetxt(raw / "RawData" / "labels.txt", segments, fmt="%d")
    names = enumerate((*CLASSES, *TRANSITIONS), 1)
    (raw / "activity_labels.txt").write_text("".join(f"{number:>2} {name:<20}\n" for number, name in names))
    return raw

"""Reader of UCI-HAR's windows rebuilt from HAPT's recordings, in one .npz file: ``acc`` [N, 128, 6] (body, then
total), ``gyro`` [N, 128, 3], ``label`` 0 to 5, ``subject``, ``split`` (0 training, 2 test)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.raw_dataset import RowReader
from fedrecon_core.preparation.raw_readers.npz_file import NpzFile
from fedrecon_core.preparation.raw_readers.uci_inertial import WINDOW

FILE = "hapt_ucihar.npz"
AXES = 3
SPLITS = (0, 2)


def expected_files() -> list[ExpectedFile]:
    """Return the one file."""
    return [ExpectedFile(FILE, "windows of acc and gyro with label, subject and split")]


@dataclass(frozen=True)
class Windows:
    """int64 [N] each: ``activity`` 0 to 5, ``subject``, ``split`` 0 training or 2 test."""

    activity: IntArray
    subject: IntArray
    split: IntArray


def read_windows(raw: Path, classes: tuple[str, ...]) -> Windows:
    """Read activity, subject and split of every window; ``DataError`` naming an invalid array."""
    file = NpzFile(raw / FILE)
    names = tuple(file.column("label_names", "label_names", "U", None).tolist())
    if names != classes:
        raise DataError(f"{file.path}: label_names: expected {', '.join(classes)}, found {', '.join(names)}")
    rows = len(file.column("label", "label", "iu", None))
    found = {name: file.codes(name, name, rows) for name in ("label", "subject", "split")}
    for name, known in (("label", range(len(classes))), ("split", SPLITS)):
        stray = sorted(set(found[name].tolist()) - set(known))
        if stray:
            raise DataError(f"{file.path}: {name}: expected one of {list(known)}, found {stray[0]}")
    both = np.intersect1d(*(found["subject"][found["split"] == part] for part in SPLITS))
    if len(both):
        raise DataError(f"{file.path}: split: expected each subject in one split, found {both[0]} in both")
    return Windows(found["label"], found["subject"], found["split"])


def readers(raw: Path, count: int, total: bool) -> dict[str, RowReader]:
    """Return modality -> reader of its windows."""
    file = NpzFile(raw / FILE)
    return {
        "acc": _reader(file, "acc", count, 2 * AXES if total else AXES),
        "gyro": _reader(file, "gyro", count, AXES),
    }


def _reader(file: NpzFile, name: str, count: int, channels: int) -> RowReader:
    windows: NDArray[np.floating] = file.of(name, name, "f", count)
    if windows.shape[1:2] != (WINDOW,) or windows.ndim != 3 or windows.shape[2] < channels:
        expected = f"[{count}, {WINDOW}, {channels} or more]"
        raise DataError(f"{file.path}: {name}: expected {expected}, found {list(windows.shape)}")
    values = windows[..., :channels].astype(np.float32)
    return lambda samples: list(values[samples])

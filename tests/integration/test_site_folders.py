"""Thousands of randomly corrupted site folders: never a hang, a traceback or an undetected error. And large folders.

An undetected error is a folder that passes the check although its data differ from the original: samples, rows, or the
specification (unless the edit updated its digest, which the federation compares). If a folder is opened without a
check, the only change that may be missed is a file whose bytes were changed in place with size and time kept.
"""

import contextlib
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.errors import DataError
from tests.helpers.corruptions import CORRUPTIONS, corrupted, write_multiclass, write_multilabel
from tests.helpers.folders import SCAN, write_large_folder

FEW_AND_ALL = [range(0, 2000, 5), pytest.param(range(2000), marks=pytest.mark.slow)]
"""Case numbers. The small selection is spread over all cases, so that the share of faults is the same."""
SEALED_FEW_AND_ALL = [100, pytest.param(500, marks=pytest.mark.slow)]
FIRST_SEALED = 2000
"""Number of the first case that is sealed; those below are checked and opened."""
LONGEST_WAIT, LONGEST_LINE = 120.0, 400
KINDS = sorted(CORRUPTIONS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> list[Path]:
    base = tmp_path_factory.mktemp("sound")
    return [write_multiclass(base / "multiclass"), write_multilabel(base / "multilabel")]


@contextlib.contextmanager
def no_wait() -> Iterator[None]:
    """Fail if the block hangs."""

    def ring(*_: object) -> None:
        raise AssertionError(f"no answer within {LONGEST_WAIT} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def case(number: int, sound: list[Path], base: Path) -> Iterator[tuple[Path, str, bool]]:
    """A copy of a valid folder with one corruption: the copy, its kind, and whether file times were kept."""
    kind, draw = KINDS[number % len(KINDS)], random.Random(f"corruption {number}")
    folder, keep_times = base / f"{number}" / "site", draw.random() < 0.3
    shutil.copytree(sound[number % 4 == 3], folder)
    try:
        corrupted(folder, kind, draw, keep_times=keep_times)
        with no_wait():
            yield folder, kind, keep_times
    except Exception as error:
        raise AssertionError(f"case {number} ({kind}): {type(error).__name__}: {error}") from error
    shutil.rmtree(folder.parent)


def classes(found: Dataset) -> list[list[int]]:
    """The positions of each sample's classes."""
    labels = found.labels if found.labels.ndim == 1 else [np.flatnonzero(row) for row in found.labels]
    return [np.atleast_1d(one).tolist() for one in labels]


def same(found: Dataset, known: Dataset) -> bool:
    """Whether both have the same samples and rows; names of classes and classes without samples do not matter."""
    columns = ("ids", "split", "cluster_ids", "natural_ids")
    if set(found.spec.names) != set(known.spec.names) or classes(found) != classes(known):
        return False
    return all(np.array_equal(getattr(found, name), getattr(known, name)) for name in columns) and all(
        np.array_equal(found.rows[name], known.rows[name])
        and found.arrays[name].shape == known.arrays[name].shape
        and np.asarray(found.arrays[name]).tobytes() == np.asarray(known.arrays[name]).tobytes()
        and (name in found.offsets) == (name in known.offsets)
        and np.array_equal(found.offsets.get(name, 0), known.offsets.get(name, 0))
        for name in known.spec.names
    )


def opened(folder: Path) -> Dataset | None:
    try:
        return open_folder(folder)
    except DataError as error:
        readable([str(error)], folder)
        return None


def readable(lines: list[str], folder: Path) -> None:
    for line in lines:
        assert str(folder) in line, f"names no file: {line!r}"
        assert line.isprintable(), f"more than one line: {line!r}"
        assert len(line) < LONGEST_LINE, f"{len(line)} characters: {line!r}"


def outcome(found: Dataset | None, known: Dataset) -> str:
    if found is None:
        return "refused"
    if not same(found, known):
        return "other content"
    return "equal" if found.spec == known.spec else "other specification"


def show(title: str, counts: dict[str, Counter[str]], began: float) -> None:
    names = sorted({name for counted in counts.values() for name in counted})
    print(f"\n{title}: {time.perf_counter() - began:.0f} s\n{'':18}" + "".join(f"{name:>22}" for name in names))
    for kind in [*KINDS, "all"]:
        counted = counts[kind] if kind != "all" else sum(counts.values(), Counter())
        print(f"{kind:18}" + "".join(f"{counted[name] or '':>22}" for name in names))


@pytest.mark.parametrize("cases", FEW_AND_ALL, ids=len)
def test_every_corruption_is_detected_by_check_or_open(sound, tmp_path, cases):
    known, began = [open_folder(folder) for folder in sound], time.perf_counter()
    checks, openings = ({kind: Counter() for kind in KINDS} for _ in range(2))
    for number in cases:
        with case(number, sound, tmp_path) as (folder, kind, keep_times):
            found = outcome(opened(folder), known[number % 4 == 3])
            openings[kind][found] += 1
            assert found in ("refused", "equal") or keep_times, f"opened: {found}"
            faults = check_folder(folder)
            readable(faults, folder)
            after = None if faults else opened(folder)
            assert faults or after is not None, "checked, and cannot be opened"
            found = outcome(after, known[number % 4 == 3])
            checks[kind][found] += 1
            assert found in ("refused", "equal") or (found == "other specification" and kind == "yaml_sealed"), found
    show("check", checks, began)
    show("open", openings, began)
    assert checks["yaml_spaces"] == {"equal": checks["yaml_spaces"].total()}
    assert sum(checks.values(), Counter())["refused"] > 0.75 * len(cases)


def valid(found: Dataset) -> None:
    """Assert all properties that training relies on."""
    spec, count = found.spec, len(found.ids)
    assert set(np.unique(found.split)) <= {0, 1, 2}
    if spec.target == "multiclass":
        assert found.labels.shape == (count,)
        assert ((found.labels >= 0) & (found.labels < len(spec.classes))).all()
    else:
        assert found.labels.shape == (count, len(spec.classes))
        assert np.isin(found.labels, (0, 1)).all()
    for split in (0, 1):
        assert len(np.unique(found.ids[found.split == split])) == (found.split == split).sum()
    for modality in spec.modalities:
        values, rows = np.asarray(found.arrays[modality.name]), found.rows[modality.name]
        has = int((rows >= 0).sum())
        assert np.array_equal(rows[rows >= 0], np.arange(has))
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        if modality.name in found.offsets:
            lengths = np.diff(found.offsets[modality.name])
            assert len(lengths) == has
            assert lengths.sum() == len(values)
            assert ((lengths >= 1) & (lengths <= modality.shape[0])).all()
            assert values.shape[1:] == modality.shape[1:]
        else:
            assert values.shape == (has, *modality.shape)
            assert values.size == has * math.prod(modality.shape)


@pytest.mark.parametrize("cases", SEALED_FEW_AND_ALL)
def test_every_sealed_folder_can_be_used_for_training(sound, tmp_path, cases):
    """Sealing compares no digest: errors have to be detected in the files."""
    began, seals = time.perf_counter(), {kind: Counter() for kind in KINDS}
    for number in range(FIRST_SEALED, FIRST_SEALED + cases):
        with case(number, sound, tmp_path) as (folder, kind, _):
            path = folder / "dataset.yaml"
            before = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            faults = seal_folder(folder)
            readable(faults, folder)
            seals[kind]["refused" if faults else "sealed"] += 1
            if faults:
                assert before is None or path.read_bytes() == before
            else:
                valid(open_folder(folder))
                assert check_folder(folder) == []
    show("seal", seals, began)
    assert seals["yaml_spaces"] == {"sealed": seals["yaml_spaces"].total()}
    assert 0.2 * cases < sum(seals.values(), Counter())["refused"] < cases


# --- a site folder far larger than the memory -------------------------------------------------------------------------

GB, MB = 1 << 30, 1 << 20
BATCH = 16
PROBE = """
import json, sys, threading, time
import torch
from pathlib import Path
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_data import open_split
from fedrecon_core.data.statistics import Statistics, scaled, site_sums

torch.set_num_threads(1)
folder, batch, sums = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "sums"

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

class Peak(threading.Thread):
    daemon, highest, over = True, 0, False
    def run(self):
        while not self.over:
            self.highest = max(self.highest, anonymous())
            time.sleep(0.002)

before, peak = anonymous(), Peak()
peak.start()
began = time.perf_counter()
data = open_split(open_folder(folder), "train", device=torch.device("cpu"), keep_empty=False)
seconds = time.perf_counter() - began
opened = anonymous() - before
shape = data.spec["scan"].features
known = {"scan": Statistics(*(part.flatten().double() for part in (torch.zeros(shape), torch.ones(shape))))}
if sums:
    site_sums(data)
ready = scaled(data, known)
taken = ready.batch(torch.arange(batch) * 7)
time.sleep(0.01)
peak.over = True
peak.join()
rows = sum(r.values.nbytes for r in taken.inputs.values())
print(json.dumps({"seconds": seconds, "opened": opened, "peak": peak.highest - before, "batch": rows}))
"""


def probe(folder: Path, sums: str = "none") -> dict[str, float]:
    command = [sys.executable, "-c", PROBE, str(folder), str(BATCH), sums]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ten_gigabytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "site"
    assert write_large_folder(folder, 10 * GB) > 17_000
    return folder


def test_ten_gigabytes_open_within_fifty_megabytes_plus_a_batch(ten_gigabytes):
    found = probe(ten_gigabytes)
    print({key: round(value / MB, 1) if key != "seconds" else round(value, 4) for key, value in found.items()})
    assert found["batch"] > BATCH * SCAN
    assert found["opened"] < 50 * MB
    assert found["peak"] < 50 * MB + found["batch"]


def test_sums_over_a_large_modality_load_one_block_at_a_time(tmp_path):
    write_large_folder(tmp_path / "site", GB // 2)
    found = probe(tmp_path / "site", "sums")
    print({key: round(value / MB, 1) if key != "seconds" else round(value, 4) for key, value in found.items()})
    assert found["peak"] < 100 * MB + 3 * found["batch"]

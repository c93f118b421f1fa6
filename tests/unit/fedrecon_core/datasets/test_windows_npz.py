"""Data set ``uci_har`` from the windows of an .npz file, and each fault of such a file."""

import numpy as np
import pytest

from fedrecon_core.datasets.uci_har import UciHar
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.raw_readers.har_windows import CLASSES
from fedrecon_core.registry import CORE_PACKAGES, discover
from tests.helpers.raw_uci_har import prepared
from tests.helpers.runs import caller

pytestmark = pytest.mark.quick

discover(CORE_PACKAGES)


def arrays_of_windows(**changes):
    """Two windows of each of six subjects, two of whom are official test subjects, in order of the activities."""
    subjects = np.repeat([1, 2, 3, 4, 5, 7], 2)
    stream = np.random.default_rng(0)
    return {
        "acc": stream.normal(size=(12, 128, 6)).astype(np.float16),
        "gyro": stream.normal(size=(12, 128, 3)).astype(np.float16),
        "label": np.arange(12, dtype=np.int16) % 6,
        "subject": subjects.astype(np.int16),
        "split": np.where(np.isin(subjects, (2, 4)), 2, 0).astype(np.int8),
        "label_names": np.array(CLASSES),
        **changes,
    }


def saved(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "hapt_ucihar.npz", **arrays_of_windows(**changes))
    return folder


def test_windows_of_an_npz_file_become_a_prepared_folder(tmp_path):
    root = prepared(saved(tmp_path / "raw"), tmp_path / "out", validation=(7,))
    dataset = UciHar().load(UciHar.Params(name="uci_har"), root, seed=0)
    known = arrays_of_windows()
    assert np.array_equal(np.asarray(dataset.arrays["acc"]), known["acc"][..., :3].astype(np.float32))
    assert np.array_equal(np.asarray(dataset.arrays["gyro"]), known["gyro"].astype(np.float32))
    assert np.array_equal(dataset.labels, known["label"]) and np.array_equal(dataset.cluster_ids, known["subject"])
    assert np.array_equal(dataset.split, np.where(known["subject"] == 7, 1, known["split"]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": np.full(12, 6)}, "label: expected one of"),
        ({"split": np.full(12, 1)}, r"split: expected one of \[0, 2\], found 1"),
        ({"gyro": np.zeros((12, 64, 3))}, r"gyro: expected \[12, 128, 3 or more\], found \[12, 64, 3\]"),
        ({"acc": np.zeros((11, 128, 6))}, "expected 12 rows"),
        ({"split": np.array([0, 2] + [0] * 10)}, "split: expected each subject in one split, found 1 in both"),
        ({"label_names": np.array(CLASSES[::-1])}, "label_names: expected WALKING,"),
    ],
)
def test_a_fault_in_an_npz_file_is_named(changes, told, tmp_path):
    with pytest.raises(DataError, match=told):
        prepared(saved(tmp_path / "raw", **changes), tmp_path / "out", validation=(7,))


def test_prepare_and_describe_tell_that_the_windows_are_rebuilt(tmp_path, monkeypatch, capsys):
    """Nobody takes them for the official files, when they are prepared or later."""
    fault = "layout npz: the 12 windows are rebuilt from the recordings of HAPT; the official files of"
    command = caller(monkeypatch, capsys)
    raw, out = saved(tmp_path / "raw"), tmp_path / "out"
    code, told, _ = command("data", "prepare", "uci_har", "--raw", raw, "--out", out, "--set", "validation=[7]")
    assert code == 0
    assert "found layout npz: hapt_ucihar.npz, 12 windows\n" in told
    assert f"known fault: {fault}" in told
    assert fault in " ".join(command("data", "describe", out)[1].split())
    assert UciHar().load(UciHar.Params(name="uci_har"), out, seed=0).faults[0].startswith(fault)

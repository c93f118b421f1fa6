"""A preparation that was interrupted does not mix files as they were with files as they are."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.feature_rows import file_states, first_few
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.preparation.writer import write_site_folder
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, discover
from tests.helpers import raw_crisismmd, raw_meld, raw_npz, raw_polymnist, raw_uci_har
from tests.helpers.toy_features import toy_features

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)


def folders(raw: Path) -> None:
    raw_polymnist.write_folders(raw)


TOYS: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any], str]] = {
    "meld": (
        "meld",
        raw_meld.write,
        {"missing_audio": "allow", "audio": "toy_audio", "text": "toy_text"},
        "dia*_utt[0-4].wav",
    ),
    "crisismmd": ("crisismmd", raw_crisismmd.write, {"image": "toy_image", "text": "toy_text"}, "*.jpg"),
    "uci": ("uci_har", raw_uci_har.write_uci, {}, "body_*.txt"),
    "hapt": ("uci_har", raw_uci_har.write_hapt, {}, "*_exp*.txt"),
    "png": ("polymnist", folders, {"validation": 10}, "*.png"),
    "npz": ("npz", raw_npz.root, {}, "*.npz"),
}
"""Layout -> data set, what writes a raw folder of it, keys, and the files that its rows are read from."""


@contextmanager
def made(layout: str, raw: Path) -> Iterator[Callable[[], RawDataset]]:
    """What gives the raw_data of a raw folder as it is at the time."""
    name, write, keys, _ = TOYS[layout]
    write(raw)
    cls = DATASETS.get(name)
    with toy_features():
        yield lambda: cls.read_raw(cls.Raw(**keys), raw, raw.parent / "cache")


@pytest.mark.parametrize("layout", TOYS)
def test_each_file_that_rows_are_read_from_decides_whether_a_preparation_goes_on(layout, tmp_path):
    with made(layout, tmp_path / "raw") as raw_data:
        known = {raw_data().digest()}
        assert raw_data().digest() in known
        files = sorted((tmp_path / "raw").rglob(TOYS[layout][3]))
        for count, file in enumerate(files[:: max(len(files) // 6, 1)], start=2):
            state = file.stat()
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))  # the same size: fetched again
            known.add(raw_data().digest())
            assert len(known) == count, file


def test_a_file_that_was_right_by_its_size_and_is_fetched_again_is_not_mixed_with_the_first(tmp_path):
    with made("uci", tmp_path / "raw") as raw_data:
        signals = tmp_path / "raw" / "train" / "Inertial Signals"
        wrong, damaged = signals / "body_acc_x_train.txt", signals / "body_gyro_x_train.txt"
        good = {file: file.read_text() for file in (wrong, damaged)}
        np.savetxt(wrong, np.zeros_like(np.loadtxt(wrong)), fmt=" %15.7e", delimiter="")
        damaged.write_text("oops")
        with pytest.raises(DataError, match=r"body_gyro_x_train\.txt"):
            write_site_folder(raw_data(), tmp_path / "out", lambda *_: None)
        for file, text in good.items():
            file.write_text(text)
        with pytest.raises(DataError, match="an unfinished preparation of other files or with other options"):
            write_site_folder(raw_data(), tmp_path / "out", lambda *_: None)


def test_states_are_by_path_size_and_time_and_know_what_is_not_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    os.utime(tmp_path / "a" / "x", ns=(0, 5))
    assert [*file_states(tmp_path, [tmp_path / "a" / "x", tmp_path / "y"])] == ["a/x 3 5", "y none"]


def test_a_line_names_the_first_few(tmp_path):
    assert first_few(["a", "b"]) == "a, b"
    assert first_few([*"abcdefg"]) == "a, b, c, d, e and 2 more"

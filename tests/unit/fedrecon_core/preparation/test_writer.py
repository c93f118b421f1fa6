"""The driver of preparations: blocks, resumption with the same bytes, faults that name the sample."""

import hashlib
import multiprocessing
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrecon_core.data.site_folder.check import check_folder
from fedrecon_core.data.site_folder.opening import open_folder, open_whole
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.errors import DataError
from fedrecon_core.preparation import writer as driver
from fedrecon_core.preparation.expected_files import CHECKSUMS, ExpectedFile, file_faults
from fedrecon_core.preparation.feature_rows import file_states, first_few
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.preparation.writer import BLOCK, WORK, write_site_folder, write_site_folders
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, discover
from fedrecon_core.types import DatasetSpec, ModalitySpec
from tests.helpers import raw_crisismmd, raw_meld, raw_npz, raw_polymnist, raw_uci_har
from tests.helpers.features import toy_features
from tests.helpers.processes import files_end_at
from tests.helpers.raw_data import contents, made_up, reading


def silent(modality: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted preparation writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    write_site_folder(made_up(), out, silent)
    return contents(out)


def test_the_folder_holds_every_row_at_its_sample(tmp_path):
    raw_data = made_up(300)
    write_site_folder(raw_data, tmp_path / "out", silent)
    assert check_folder(tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".checked",
        "arrays",
        "dataset.yaml",
        "samples.parquet",
    ]
    found = open_folder(tmp_path / "out")
    assert np.array_equal(found.exists(), raw_data.samples.present)
    for sample in range(300):
        row, sequence = found.rows["numbers"][sample], found.rows["steps"][sample]
        if row >= 0:
            assert (found.arrays["numbers"][row] == sample).all()
        if sequence >= 0:
            start, end = found.offsets["steps"][sequence : sequence + 2]
            assert end - start == 1 + sample % 6
            assert (found.arrays["steps"][start:end] == sample).all()


def test_a_reader_gets_each_sample_once_and_never_more_than_a_block(tmp_path):
    seen: list[np.ndarray] = []

    def read(chosen, rows):
        assert len(chosen) <= BLOCK
        seen.append(chosen)
        return rows

    raw_data = reading(made_up(), "numbers", read)
    write_site_folder(raw_data, tmp_path / "out", silent)
    assert np.array_equal(np.concatenate(seen), np.flatnonzero(raw_data.samples.present[:, 0]))


@pytest.mark.parametrize(("most", "together"), [(16, 1), (36, 3), (1 << 20, 64)])
def test_large_samples_are_read_in_smaller_blocks_to_the_same_bytes(tmp_path, monkeypatch, most, together):
    """A row of ``numbers`` has 12 bytes, one of ``steps`` at most 48."""
    write_site_folder(made_up(200), tmp_path / "whole", silent)
    monkeypatch.setattr(driver, "MOST_BYTES", most)
    sizes: list[int] = []
    raw_data = reading(made_up(200), "numbers", lambda chosen, rows: sizes.append(len(chosen)) or rows)
    write_site_folder(raw_data, tmp_path / "out", silent)
    assert max(sizes) == together
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_file_of_rows_takes_no_second_copy_of_them(tmp_path):
    shape, count = (256, 1024), 32  # 1 MiB each
    spec = DatasetSpec(
        name="large", classes=("no", "yes"), modalities=(ModalitySpec(name="map", kind="sequence", shape=shape),)
    )
    known = np.arange(count)
    samples = Samples(known, known % 2, known * 0, known, np.ones((count, 1), dtype=bool))
    raw_data = RawDataset(spec, samples, {"map": lambda chosen: [np.full(shape, n, dtype=np.float32) for n in chosen]})
    tracemalloc.start()
    try:
        write_site_folder(raw_data, tmp_path / "out", silent)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * count * 2**20
    assert open_folder(tmp_path / "out").arrays["map"][5][0, 0] == 5


def test_progress_counts_up_to_the_rows_that_there_are(tmp_path):
    reported: dict[str, list[tuple[int, int]]] = {}
    raw_data = made_up(300)
    write_site_folder(raw_data, tmp_path / "out", lambda name, *counts: reported.setdefault(name, []).append(counts))
    for column, name in enumerate(raw_data.spec.names):
        total = int(raw_data.samples.present[:, column].sum())
        assert reported[name][-1] == (total, total)
        assert all(
            a[0] < b[0] and b[0] - a[0] <= BLOCK for a, b in zip(reported[name], reported[name][1:], strict=False)
        )


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("a file at fault"), MemoryError])
@pytest.mark.parametrize("modality", ["numbers", "steps"])
def test_an_interrupted_preparation_resumes_to_the_same_bytes(tmp_path, whole, modality, error):
    out, calls = tmp_path / "out", []

    def broken(chosen, rows):
        calls.append(chosen[0])
        if len(calls) == 25:
            raise error
        return rows

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_site_folder(reading(made_up(), modality, broken), out, silent)
    with pytest.raises(DataError, match=r"dataset.yaml: expected"):
        open_folder(out)
    again: list[int] = []
    reported: list[int] = []

    def recorded(chosen, rows):
        again.append(chosen[0])
        return rows

    def progress(name, done, total):
        if name == modality:
            reported.append(done)

    write_site_folder(reading(made_up(), modality, recorded), out, progress)
    assert contents(out) == whole
    assert again[0] > calls[0]  # what was there is not read again
    assert reported[-1] == made_up().samples.present[:, made_up().spec.names.index(modality)].sum()


@pytest.mark.parametrize("step", ["write_samples", "seal", "write_stamp", "rmtree", "replace_text"])
def test_a_crash_at_any_later_step_is_made_good(tmp_path, whole, monkeypatch, step):
    out = tmp_path / "out"

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(driver.shutil if step == "rmtree" else driver, step, crash)
        with pytest.raises(KeyboardInterrupt):
            write_site_folder(made_up(), out, silent)
    write_site_folder(made_up(), out, silent)
    assert contents(out) == whole


def test_what_a_killed_process_leaves_half_written_is_not_taken_for_done(tmp_path, whole):
    out = tmp_path / "out"

    def broken(chosen, rows):
        if chosen[0] > 1500:
            raise KeyboardInterrupt
        return rows

    with pytest.raises(KeyboardInterrupt):
        write_site_folder(reading(made_up(), "steps", broken), out, silent)
    for name in (f"{WORK}/.steps.000001.npz.partial", "arrays/.steps.npy.partial", ".samples.parquet.partial"):
        (out / name).write_bytes(b"half")
    write_site_folder(made_up(), out, silent)
    assert contents(out) == whole


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-2000]])
@pytest.mark.parametrize("flip", [False, True])
def test_a_block_that_is_damaged_is_made_anew(tmp_path, whole, damage, flip):
    out = tmp_path / "out"

    def broken(chosen, rows):
        if chosen[0] > 1500:
            raise KeyboardInterrupt
        return rows

    with pytest.raises(KeyboardInterrupt):
        write_site_folder(reading(made_up(), "steps", broken), out, silent)
    block = sorted((out / WORK).glob("steps.*.npz"))[0]
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 0xFF
    block.write_bytes(data if flip else damage(bytes(data)))
    write_site_folder(made_up(), out, silent)
    assert contents(out) == whole


def hold(out: Path, ready, go) -> None:
    """Prepare ``out``, and wait in the middle until ``go`` is set."""

    def waiting(chosen, rows):
        ready.set()
        assert go.wait(60)
        return rows

    write_site_folder(reading(made_up(), "steps", waiting), out, silent)


@pytest.mark.parametrize("other", [made_up(), made_up(seed=1)])
def test_two_preparations_of_one_folder_do_not_meet(tmp_path, whole, other):
    out, context = tmp_path / "out", multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(out, ready, go))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(DataError, match=r"out: another process is writing to this folder; wait for it or choo"):
            write_site_folder(other, out, silent)
    finally:
        go.set()
        process.join(60)
    assert process.exitcode == 0
    assert contents(out) == whole


def test_an_interrupted_removal_of_the_blocks_resumes(tmp_path, whole, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(driver.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_site_folder(made_up(), out, silent)
    for path in (out / WORK).glob("*.joined"):
        path.unlink()
    write_site_folder(made_up(), out, silent)
    assert contents(out) == whole


@pytest.mark.parametrize("other", [made_up(seed=1), replace(made_up(), version="2"), made_up(2400)])
def test_a_preparation_with_other_options_does_not_resume(tmp_path, other):
    def broken(chosen, rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site_folder(reading(made_up(), "numbers", broken), tmp_path / "out", silent)
    with pytest.raises(DataError, match=r"unfinished preparation of other files or with other options; choose another"):
        write_site_folder(other, tmp_path / "out", silent)


@pytest.mark.parametrize(("name", "found"), [("dataset.yaml", "a prepared data set"), ("notes.txt", "files in it")])
def test_a_folder_with_something_in_it_is_left_alone(tmp_path, name, found):
    (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match=f"expected a new or empty folder, found {found}"):
        write_site_folder(made_up(10), tmp_path, silent)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="out: expected a new or empty folder, found a file"):
        write_site_folder(made_up(10), tmp_path / "out", silent)


@pytest.mark.parametrize(
    ("modality", "row", "words"),
    [
        ("numbers", np.array([1.0, np.nan, 0.0]), "sample 14: numbers: expected finite numbers, found NaN or infinity"),
        ("numbers", np.array([1.0, 1e300, 0.0]), "sample 14: numbers: expected finite numbers, found NaN or infinity"),
        ("numbers", np.zeros(4), r"sample 14: numbers: expected \[3\], found \[4\]"),
        ("numbers", np.array(1.0), r"sample 14: numbers: expected \[3\], found \[\]"),
        ("steps", np.zeros((7, 2)), r"sample 14: steps: expected 1 to 6 steps of \[2\], found \[7, 2\]"),
        ("steps", np.zeros((0, 2)), r"sample 14: steps: expected 1 to 6 steps of \[2\], found \[0, 2\]"),
        ("steps", np.zeros((2, 3)), r"sample 14: steps: expected 1 to 6 steps of \[2\], found \[2, 3\]"),
        ("steps", np.array(0.0), r"sample 14: steps: expected 1 to 6 steps of \[2\], found \[\]"),
    ],
)
def test_a_row_that_does_not_fit_names_its_sample(tmp_path, modality, row, words):
    raw_data = made_up(30)
    raw_data.samples.present[:] = True

    def read(chosen, rows):
        return [row if sample == 7 else good for sample, good in zip(chosen, rows, strict=True)]

    with pytest.raises(DataError, match=words):
        write_site_folder(reading(raw_data, modality, read), tmp_path / "out", silent)


def test_a_sample_is_called_by_its_own_name(tmp_path):
    raw_data = replace(made_up(30), names=[f"visit {n}" for n in range(30)])
    broken = reading(raw_data, "numbers", lambda chosen, rows: [row * np.nan for row in rows])
    with pytest.raises(DataError, match=r"^visit \d+: numbers: expected finite numbers"):
        write_site_folder(broken, tmp_path / "out", silent)


def test_a_modality_that_all_lack_is_refused_before_anything_is_written(tmp_path):
    raw_data = made_up(30)
    raw_data.samples.present[:, 1] = False
    with pytest.raises(DataError, match="made_up: expected a sample with steps, found none in the whole data set"):
        write_site_folder(raw_data, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


def test_a_specification_that_no_folder_can_have_is_refused_before_anything_is_written(tmp_path):
    raw_data = made_up(30)
    twice = replace(raw_data, spec=raw_data.spec.model_copy(update={"classes": ("yes", "yes")}))
    with pytest.raises(DataError, match=r"^made_up: classes: expected unique names, found 'yes' several times$"):
        write_site_folder(twice, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


def test_sites_may_all_lack_what_the_federation_has(tmp_path):
    west = made_up(40)
    west.samples.present[:, 1] = False
    write_site_folders({".": west}, tmp_path / "out", silent)
    assert check_folder(tmp_path / "out") == []
    assert open_folder(tmp_path / "out").spec == west.spec
    with pytest.raises(DataError, match="expected a sample with modality 'steps', found none in the whole data set"):
        open_whole(tmp_path / "out")


def test_a_site_may_lack_what_another_has(tmp_path):
    north, south = made_up(100), made_up(80, seed=1)
    south.samples.present[:, 1] = False
    reported = []
    write_site_folders({"north": north, "south": south}, tmp_path / "out", lambda *counts: reported.append(counts))
    assert [check_folder(tmp_path / "out" / name) for name in ("north", "south")] == [[], []]
    assert not (tmp_path / "out" / "south" / "arrays" / "steps.npy").exists()
    total = int(north.samples.present[:, 0].sum() + south.samples.present[:, 0].sum())
    assert max(done for name, done, _ in reported if name == "numbers") == total
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["north", "south"]


def test_several_interrupted_sites_resume_to_the_same_bytes(tmp_path):
    def sites(**changed):
        return {"north": made_up(200), "south": made_up(150, seed=1), **changed}

    def broken(chosen, rows):
        raise KeyboardInterrupt

    write_site_folders(sites(), tmp_path / "whole", silent)
    with pytest.raises(KeyboardInterrupt):
        write_site_folders(sites(south=reading(made_up(150, seed=1), "steps", broken)), tmp_path / "out", silent)
    read = []
    north = reading(made_up(200), "numbers", lambda chosen, rows: read.append(chosen) or rows)
    write_site_folders(sites(north=north), tmp_path / "out", silent)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert read == []  # a site that was finished is not read again


def test_a_full_disk_is_named_and_made_good(tmp_path, whole):
    with files_end_at(4096), pytest.raises(DataError, match="out cannot be written: File too large; fix that, then"):
        write_site_folder(made_up(), tmp_path / "out", silent)
    write_site_folder(made_up(), tmp_path / "out", silent)
    assert contents(tmp_path / "out") == whole


def test_a_file_of_the_source_that_went_away_is_named(tmp_path):
    gone = tmp_path / "raw" / "a.wav"
    raw_data = reading(made_up(10), "steps", lambda chosen, rows: gone.read_bytes())
    with pytest.raises(DataError, match=r"a\.wav cannot be read: No such file"):
        write_site_folder(raw_data, tmp_path / "out", silent)


# --- what a raw data set must hold -----------------------------------------------------------------------------------


MD5 = hashlib.md5(b"right").hexdigest()
ARCHIVE = ExpectedFile("letters.gz", "the letters as published", md5=MD5)


def a_folder(path: Path) -> None:
    path.mkdir()


def other_bytes(path: Path) -> None:
    path.write_bytes(b"wrong")


def nothing(path: Path) -> None:
    pass


@pytest.mark.quick
def test_the_right_file_has_no_fault(tmp_path):
    (tmp_path / "letters.gz").write_bytes(b"right")
    (tmp_path / CHECKSUMS).write_text(f"{hashlib.sha256(b'right').hexdigest()}  letters.gz\n")
    assert file_faults(tmp_path, [ARCHIVE]) == []


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "letters.gz: expected the letters as published, found none"),
        (a_folder, "letters.gz: expected a file that can be read, found: Is a directory"),
        (other_bytes, f"letters.gz: expected the MD5 {MD5} (the letters as published), found "),
    ],
)
def test_a_file_with_a_checksum_is_named_with_what_is_there(tmp_path, make, words):
    make(tmp_path / "letters.gz")
    (fault,) = file_faults(tmp_path, [ARCHIVE])
    assert words in fault


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, f"letters.gz: expected the file that {CHECKSUMS} lists, found none"),
        (a_folder, "letters.gz: expected a file that can be read, found: Is a directory"),
        (other_bytes, f"letters.gz: expected the SHA-256 {'0' * 12}... ({CHECKSUMS}), found "),
    ],
)
def test_a_listed_file_is_named_with_what_is_there(tmp_path, make, words):
    make(tmp_path / "letters.gz")
    (tmp_path / CHECKSUMS).write_text(f"{'0' * 64}  letters.gz\n")
    (fault,) = file_faults(tmp_path, [])
    assert words in fault


# --- a preparation that was interrupted does not mix files as they were with files as they are -----------------------


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


@pytest.mark.quick
@pytest.mark.parametrize("layout", TOYS)
def test_a_preparation_resumes_only_with_unchanged_files(layout, tmp_path):
    with made(layout, tmp_path / "raw") as raw_data:
        known = {raw_data().digest()}
        assert raw_data().digest() in known
        files = sorted((tmp_path / "raw").rglob(TOYS[layout][3]))
        for count, file in enumerate(files[:: max(len(files) // 6, 1)], start=2):
            state = file.stat()
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))  # the same size: fetched again
            known.add(raw_data().digest())
            assert len(known) == count, file


@pytest.mark.quick
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


@pytest.mark.quick
def test_states_are_by_path_size_and_time_and_know_what_is_not_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    os.utime(tmp_path / "a" / "x", ns=(0, 5))
    assert [*file_states(tmp_path, [tmp_path / "a" / "x", tmp_path / "y"])] == ["a/x 3 5", "y none"]


@pytest.mark.quick
def test_a_line_names_the_first_few(tmp_path):
    assert first_few(["a", "b"]) == "a, b"
    assert first_few([*"abcdefg"]) == "a, b, c, d, e and 2 more"

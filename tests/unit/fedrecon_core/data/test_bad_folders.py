"""Bad data in a site folder: each fault is one line that names the file, what was expected and what was found."""

import contextlib
import json
import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from fedrecon_core.data.site_folder import arrays, check, description, samples
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.datasets.sites import Sites, SitesParams
from fedrecon_core.errors import DataError
from fedrecon_core.types import DatasetSpec, ModalitySpec
from server.cli import application
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import create_run
from tests.helpers.corruptions import write_multilabel
from tests.helpers.folders import content, write_toy_sites
from tests.helpers.runs import settings, write
from tests.helpers.toy import tiny_dataset

TOY = tiny_dataset(12, 8)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "north"
    write_folder(folder, content(TOY))
    return folder


@pytest.fixture
def folder(tmp_path, sound) -> Path:
    """A copy that keeps times, so that its stamp holds."""
    shutil.copytree(sound, tmp_path / "north")
    return tmp_path / "north"


def file_faults(folder: Path, do: Callable[[Path], list[str]] = check_folder) -> list[str]:
    """The faults, each of which must be printable."""
    faults = do(folder)
    for fault in faults:
        assert str(folder) in fault
        assert fault.isprintable()
        assert len(fault) < 400, fault
    return faults


def assert_reported(faults: list[str], file: str, *words: str) -> None:
    """One of ``faults`` is about ``file`` and has all ``words``."""
    about = [fault for fault in faults if f"/{file}" in fault]
    assert any(all(word in fault for word in words) for fault in about), "\n".join(faults)


def is_refused(folder: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        open_folder(folder)
    file_faults(folder, lambda _: [str(caught.value)])


def picture(folder: Path) -> Path:
    return folder / "arrays" / "picture.npy"


def resaved(change: Callable[[np.ndarray], np.ndarray], name: str = "picture") -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "arrays" / f"{name}.npy"
        np.save(path, change(np.load(path)), allow_pickle=True)

    return apply


def with_header(*replaced: str) -> Callable[[Path], object]:
    """The picture's file with another header of the same length, the numbers as they were."""

    def apply(folder: Path) -> None:
        raw = picture(folder).read_bytes()
        text = raw[10:128].decode().replace(*replaced)
        assert text != raw[10:128].decode()
        picture(folder).write_bytes(raw[:10] + (text.rstrip().ljust(117)[:117] + "\n").encode() + raw[128:])

    return apply


def put(array: np.ndarray, place: object, value: object) -> np.ndarray:
    array[place] = value
    return array


class Payload:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def as_archive(folder: Path) -> None:
    values = np.load(picture(folder))
    with picture(folder).open("wb") as file:
        np.savez(file, values)


# --- arrays ---------------------------------------------------------------------------------------------------------

ROWS = len(TOY.labels)
ARRAYS = {
    "cut": (lambda f: os.truncate(picture(f), 1000), "picture.npy", ("expected 4032 bytes", "found 872")),
    "longer": (lambda f: picture(f).open("ab").write(b"more"), "picture.npy", ("expected 4032 bytes", "found 4036")),
    "empty file": (lambda f: os.truncate(picture(f), 0), "picture.npy", ("NumPy's format", "found something else")),
    "float64": (resaved(lambda a: a.astype("f8")), "picture.npy", ("expected float32, found float64 [28, 1, 6, 6]",)),
    "int32": (resaved(lambda a: a.astype("i4")), "picture.npy", ("expected float32, found int32",)),
    "big-endian": (resaved(lambda a: a.astype(">f4")), "picture.npy", ("found big-endian float32",)),
    "fortran": (resaved(np.asfortranarray), "picture.npy", ("in C order, found Fortran order; save",)),
    "records": (
        resaved(lambda a: np.zeros(28, [("a", "f4")])),
        "picture.npy",
        ("expected the header of an array of numbers",),
    ),
    "archive": (as_archive, "picture.npy", ("NumPy's format",)),
    "nan": (resaved(lambda a: put(a, 3, np.nan)), "picture.npy", ("found NaN or infinity in row 3",)),
    "infinity": (resaved(lambda a: put(a, (27, 0, 5, 5), -np.inf)), "picture.npy", ("infinity in row 27",)),
    "shape": (
        resaved(lambda a: a.reshape(28, 6, 6, 1)),
        "picture.npy",
        ("expected float32 [rows, 1, 6, 6], found float32 [28, 6, 6, 1]",),
    ),
    "rows": (resaved(lambda a: a[:-1]), "picture.npy", ("expected 28 rows (has_picture in", "found 27")),
    "no rows": (resaved(lambda a: a[:0]), "picture.npy", ("expected 28 rows", "found 0")),
    "scalar": (resaved(lambda a: a[0, 0, 0, 0]), "picture.npy", ("expected float32 [rows, 1, 6, 6]",)),
    "more than the file": (
        with_header("(28,", "(99999999,"),
        "picture.npy",
        ("its header says float32 [99999999, 1, 6, 6]", "found 4032"),
    ),
    "less than the file": (with_header("(28,", "(27,"), "picture.npy", ("expected 3888 bytes", "found 4032")),
    "endless number": (with_header("(28,", "(" + "9" * 30 + ","), "picture.npy", ("expected the header",)),
    "negative": (with_header("(28,", "(-28,"), "picture.npy", ("expected the header",)),
    "code": (with_header("{'descr'", "{__import__('os')"), "picture.npy", ("expected the header",)),
    "nested": (with_header("{", "(" * 40), "picture.npy", ("expected the header",)),
    "unordered offsets": (
        resaved(lambda a: put(a, slice(1, 3), a[2:0:-1]), "steps.offsets"),
        "steps.offsets.npy",
        ("expected ascending offsets from 0", "do not ascend"),
    ),
    "first offset": (resaved(lambda a: a + 1, "steps.offsets"), "steps.offsets.npy", ("ascending offsets from 0",)),
    "huge offsets": (
        resaved(lambda a: put(a, slice(1, 3), [2**63 - 1, -(2**63) + 5]), "steps.offsets"),
        "steps.offsets.npy",
        ("ascending offsets",),
    ),
    "last offset": (resaved(lambda a: put(a, -1, a[-1] + 1), "steps.offsets"), "steps.npy", ("steps", "found")),
    "long sequence": (
        resaved(lambda a: np.concatenate([[0], a[1:] + 20]), "steps.offsets"),
        "steps.offsets.npy",
        ("expected at most 8 steps (steps.shape)",),
    ),
    "border type": (
        resaved(lambda a: a.astype("i4"), "steps.offsets"),
        "steps.offsets.npy",
        ("expected int64, found int32",),
    ),
    "offset count": (resaved(lambda a: a[:-1], "steps.offsets"), "steps.offsets.npy", ("expected int64 [29]", "[28]")),
    "offsets of a picture": (
        lambda f: np.save(f / "arrays" / "picture.offsets.npy", np.arange(29)),
        "picture.offsets.npy",
        ("picture.shape is not (steps, features)",),
    ),
    "offsets alone": (lambda f: (f / "arrays" / "steps.npy").unlink(), "steps.npy", ("found no file",)),
    "stray": (lambda f: (f / "arrays" / "sound.npy").touch(), "sound.npy", ("only arrays of modalities", "remove it")),
    "stray names": (lambda f: (f / "arrays" / "a\n\x1b[2J\udcff").touch(), "a??[2J?", ("a file of another name",)),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_none_of_its_modality_is_found_by_a_seal_too(folder, name):
    """A seal takes files as they are, so that no digest helps."""
    change, file, words = ARRAYS[name]
    change(folder)
    written = (folder / "dataset.yaml").read_text()
    assert_reported(file_faults(folder, seal_folder), file, *words)
    assert (folder / "dataset.yaml").read_text() == written
    assert_reported(file_faults(folder), file, *words)
    is_refused(folder, "changed since it was checked")


def test_no_pickle_is_ever_opened(folder, tmp_path):
    trace = tmp_path / "trace"
    payload = np.empty(28, dtype=object)
    payload[:] = [Payload(trace)] * 28
    for content_ in (pickle.dumps(Payload(trace)), None):
        if content_ is None:
            np.save(picture(folder), payload, allow_pickle=True)
        else:
            picture(folder).write_bytes(content_)
        assert_reported(file_faults(folder, seal_folder), "picture.npy", "expected")
        is_refused(folder, "changed")
    assert_reported(file_faults(folder), "picture.npy", "found object [28]")
    assert not trace.exists()


# --- samples --------------------------------------------------------------------------------------------------------


def retabled(change: Callable[[dict[str, list[object]]], object]) -> Callable[[Path], object]:
    """The table with the columns that ``change`` leaves."""

    def apply(folder: Path) -> None:
        columns = pq.read_table(folder / "samples.parquet").to_pydict()
        change(columns)
        pq.write_table(pa.table(columns), folder / "samples.parquet")

    return apply


def in_row(row: int, **values: object) -> Callable[[Path], object]:
    return retabled(lambda table: [table[name].__setitem__(row, value) for name, value in values.items()])


def doubled_column(folder: Path) -> None:
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.append_column("id", table["id"]), folder / "samples.parquet")


SAMPLES = {
    "label too large": (in_row(0, label=3), ("column label: expected 0 to 2 (the classes), found 3",)),
    "label negative": (in_row(0, label=-1), ("column label: expected 0 to 2", "found -1")),
    "train twice": (in_row(1, id=1000), ("column id: expected each training sample once, found 1000",)),
    "validation twice": (in_row(13, id=1012), ("column id: expected each validation sample once, found 1012",)),
    "test twice": (in_row(21, id=1020), ("column id: expected each test sample once, found 1020",)),
    "id in two splits": (in_row(13, id=1000), ("column id: expected each sample in one split, found 1000",)),
    "group in two splits": (in_row(13, group=0), ("column group: expected each group in one split, found 0",)),
    "no column": (retabled(lambda t: t.pop("group")), ("expected the column group (int64), found none",)),
    "no presence": (retabled(lambda t: t.pop("has_steps")), ("expected the column has_steps (bool), found none",)),
    "strange column": (retabled(lambda t: t.update(more=t["id"])), ("only the columns of", "found 'more'")),
    "column twice": (doubled_column, ("expected each column once, found 'id'",)),
    "type": (retabled(lambda t: t.update(id=[str(i) for i in t["id"]])), ("column id: expected int64, found string",)),
    "float label": (
        retabled(lambda t: t.update(label=[float(i) for i in t["label"]])),
        ("column label: expected int64, found double",),
    ),
    "list label": (retabled(lambda t: t.update(label=[[0]] * 28)), ("expected int64, found list",)),
    "null": (in_row(2, id=None), ("column id: expected a value in every row, found empty cells",)),
    "null presence": (in_row(2, has_steps=None), ("column has_steps: expected a value in every row",)),
    "split": (in_row(2, split="dev"), ("column split: expected train, validation, test, found 'dev'",)),
    "strange split": (in_row(2, split="x" * 500 + "\n\x1b"), ("column split",)),
    "no Parquet": (lambda f: (f / "samples.parquet").write_bytes(b"id,label\n1,2\n"), ("a Parquet table",)),
    "empty": (lambda f: os.truncate(f / "samples.parquet", 0), ("a Parquet table",)),
    "cut": (lambda f: os.truncate(f / "samples.parquet", 900), ("a Parquet table",)),
    "gone": (lambda f: (f / "samples.parquet").unlink(), ("a Parquet table of the samples, found none",)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_a_table_that_does_not_fit_is_found_by_a_seal_too(folder, name):
    change, words = SAMPLES[name]
    change(folder)
    assert_reported(file_faults(folder, seal_folder), "samples.parquet", *words)
    assert_reported(file_faults(folder), "samples.parquet", *words)
    is_refused(folder, "changed since it was checked")


def test_a_table_that_promises_too_many_rows_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(samples, "MOST_SAMPLES", 27)
    assert_reported(file_faults(folder), "samples.parquet", "expected at most 27 rows, found 28")


MULTILABEL = {
    "label": ([0, 3], "expected 0 to 2 (the classes), found 3"),
    "null": ([0, None], "expected a class in every position of a list, found empty positions"),
}


@pytest.mark.parametrize("name", MULTILABEL)
def test_labels_in_lists_are_looked_at_one_by_one(tmp_path, name):
    value, words = MULTILABEL[name]
    folder = write_multilabel(tmp_path / "north")
    in_row(0, label=value)(folder)
    assert_reported(file_faults(folder, seal_folder), "samples.parquet", f"column label: {words}")


# --- samples that stand once per draw of masks ----------------------------------------------------------------------


def test_a_test_sample_may_stand_once_per_draw_that_was_sealed(tmp_path):
    folder = write_multilabel(tmp_path / "north")
    assert yaml.safe_load((folder / "dataset.yaml").read_text())["draws"] == 2
    assert file_faults(folder) == []
    rewritten(folder, draws=1)
    assert_reported(file_faults(folder), "samples.parquet", "expected each test sample once, found 6, 7")


def test_more_repeats_than_draws_and_other_labels_of_one_id_are_faults(tmp_path):
    folder = write_multilabel(tmp_path / "north")
    in_row(9, id=6)(folder)
    faults = file_faults(folder, seal_folder)
    assert_reported(faults, "samples.parquet", "expected each test sample at most 2 times (draws), found 6")
    assert_reported(faults, "samples.parquet", "column natural: expected one value for each id, found several for 6")


def test_a_repeated_sample_shows_the_same_numbers_each_time(tmp_path):
    folder = write_multilabel(tmp_path / "north")
    values = np.load(folder / "arrays" / "steps.npy")
    np.save(folder / "arrays" / "steps.npy", put(values, -1, 7))
    assert_reported(file_faults(folder, seal_folder), "steps.npy", "the same numbers in all rows of an id", "for 7")


# --- dataset.yaml ---------------------------------------------------------------------------------------------------


def rewritten(folder: Path, **fields: object) -> None:
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


def as_text(text: str | bytes) -> Callable[[Path], object]:
    return lambda f: (f / "dataset.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)
RECORD = {"bytes": 1, "sha256": "0" * 64}
TEXTS = {
    "bomb": (as_text(BOMB), ("expected no alias (*name), write the values out",)),
    "large": (as_text("# " + "x" * (1 << 20)), ("expected at most 1048576 bytes",)),
    "deep": (as_text("[" * 1000), ("nested too deeply",)),
    "tag": (as_text("!!python/object/apply:os.system [touch trace]"), ("could not determine a constructor",)),
    "odd tag": (as_text("name: !!bool x"), ("is not valid YAML",)),
    "date": (as_text("name: 2020-99-99"), ("is not valid YAML", "month must be in 1..12")),
    "latin-1": (as_text(b"name: caf\xe9"), ("expected text in UTF-8, found byte 0xe9 at position 9",)),
    "control": (as_text("name: \x00"), ("is not valid YAML",)),
    "twice": (as_text("name: a\nname: b"), ("the key 'name' is repeated line 2",)),
    "list": (as_text("[]"), ("expected a mapping",)),
    "nothing": (as_text(""), ("expected a mapping",)),
    "number as key": (as_text("1: 2"), ("expected keys that are text, found 1",)),
    "format": (lambda f: rewritten(f, format=2), ("format",)),
    "type": (lambda f: rewritten(f, classes="abc"), ("classes: expected a list",)),
    "class": (lambda f: rewritten(f, classes=["a", "b", True]), ("classes.2: expected a valid string, found True",)),
    "classes": (lambda f: rewritten(f, classes=["a", "b", "a"]), ("classes: expected unique names, found 'a'",)),
    "no class": (lambda f: rewritten(f, classes=[]), ("classes: expected at least one, found none",)),
    "modalities": (lambda f: rewritten(f, modalities=[]), ("modalities: expected at least one, found none",)),
    "size": (
        lambda f: rewritten(f, files={"samples.parquet": {**RECORD, "bytes": -1}}),
        ("files.samples.parquet.bytes",),
    ),
    "digest": (lambda f: rewritten(f, files={"samples.parquet": {**RECORD, "sha256": "x"}}), ("sha256",)),
    "long key": (lambda f: rewritten(f, **{"x" * 5000: 1}), ("xxx...",)),
    "key of a terminal": (lambda f: rewritten(f, **{"\x1b[2J": 1}), ("unknown key",)),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_description_that_is_none_is_explained_and_opens_nothing(folder, name):
    change, words = TEXTS[name]
    change(folder)
    for do in (check_folder, seal_folder):
        [fault] = file_faults(folder, do)
        assert_reported([fault], "dataset.yaml", *words)
    is_refused(folder, "dataset.yaml")


def test_a_description_of_more_values_than_any_data_set_has_is_not_read_on(folder, monkeypatch):
    """Each costs time: a megabyte of them takes half a minute."""
    monkeypatch.setattr(description, "MOST_NODES", 100)
    as_text("[" + "1," * 101 + "]")(folder)
    assert_reported(file_faults(folder), "dataset.yaml", "expected at most 100 values")


def modality(**changes: object) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        raw = yaml.safe_load((folder / "dataset.yaml").read_text())
        raw["modalities"][2].update(changes)
        rewritten(folder, modalities=raw["modalities"], spec_sha256=None)

    return apply


EDITS = {
    "fewer classes": (lambda f: rewritten(f, classes=["a", "b"]), "samples.parquet", "expected 0 to 1 (the classes)"),
    "several labels": (lambda f: rewritten(f, target="multilabel"), "samples.parquet", "expected list<element: int64>"),
    "shape": (modality(shape=[8, 4]), "steps.npy", "expected float32 [rows, 4], found float32"),
    "shorter": (modality(shape=[2, 3]), "steps.offsets.npy", "expected at most 2 steps (steps.shape)"),
    "dimensions": (modality(shape=[8, 3, 1]), "steps.offsets.npy", "steps.shape is not (steps, features)"),
    "kind": (modality(kind="smell"), "dataset.yaml", "unknown modality kind 'smell'"),
    "kind of other axes": (modality(kind="vector"), "dataset.yaml", "shape: expected [D] (vector), none of them 0"),
    "name": (modality(name="tours"), "samples.parquet", "expected the column has_tours (bool), found none"),
    "zero": (modality(shape=[0, 3]), "dataset.yaml", "modalities.2.shape: expected sizes of 1 or more"),
    "endless": (modality(shape=[2**40, 3]), "dataset.yaml", "modalities.2.shape: expected sizes of 1 or more"),
    "nan": (modality(likelihood={"std": float("nan")}), "dataset.yaml", "modalities.2.likelihood.std"),
    "infinity": (modality(likelihood={"std": float("inf")}), "dataset.yaml", "expected a finite number, found inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_specification_that_does_not_fit_the_files_is_found_whatever_was_sealed(folder, name):
    change, file, words = EDITS[name]
    change(folder)
    assert_reported(file_faults(folder), file, words)
    assert_reported(file_faults(folder, seal_folder), file, words)
    is_refused(folder, r"dataset\.yaml")


def test_an_edit_that_fits_the_files_has_to_be_sealed(folder):
    rewritten(folder, classes=["low", "middle", "top"])
    assert_reported(file_faults(folder), "dataset.yaml", "is not the one that was sealed", "fedrecon data seal")
    assert file_faults(folder, seal_folder) == []
    assert open_folder(folder).spec.classes == ("low", "middle", "top")


# --- paths that leave the folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "arrays/../../x.npy", "arrays/\x00", "arrays", "x" * 5000])
def test_a_name_under_files_never_leads_elsewhere(folder, name):
    raw = yaml.safe_load((folder / "dataset.yaml").read_text())
    rewritten(folder, files={**raw["files"], name: RECORD})
    [fault] = file_faults(folder)
    assert_reported(
        [fault], "dataset.yaml", "files: expected samples.parquet and arrays of the modalities in this folder"
    )


LINKS = ["arrays", "arrays/picture.npy", "arrays/steps.offsets.npy", "samples.parquet", "dataset.yaml"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_out_is_refused(folder, tmp_path, name):
    path, outside = folder / name, tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    for do in (check_folder, seal_folder):
        assert_reported(file_faults(folder, do), name, "a link that leads out of")
    is_refused(folder, "a link that leads out of|changed since")


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("target", ["itself", "nowhere", "/dev/zero", "/"])
def test_a_link_to_what_is_no_file_is_refused(folder, name, target):
    path = folder / name
    path.rename(folder / "aside")
    path.symlink_to(path if target == "itself" else target)
    assert_reported(file_faults(folder), name, "expected")
    is_refused(folder, "found|changed since")


def test_a_link_inside_the_folder_is_as_good_as_a_file(folder):
    picture(folder).rename(folder / "elsewhere.npy")
    picture(folder).symlink_to("../elsewhere.npy")
    assert file_faults(folder) == []
    assert len(open_folder(folder).arrays["picture"]) == ROWS


@pytest.mark.parametrize("place", [".checked", ".checked/samples.npy", ".checked/.samples.npy.partial"])
def test_a_check_never_writes_through_a_link(folder, tmp_path, place):
    outside, path = tmp_path / "outside", folder / place
    outside.write_text("mine") if place.endswith(("npy", "partial")) else outside.mkdir()
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    assert file_faults(folder) == []
    assert outside.read_text() == "mine" if outside.is_file() else not any(outside.iterdir())
    assert len(open_folder(folder).labels) == ROWS


# --- what is no file, or cannot be read -----------------------------------------------------------------------------


def listening(path: Path) -> None:
    """A socket has a short path at most."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        before = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(before)


KINDS = {"a folder": Path.mkdir, "a pipe": os.mkfifo, "a socket": listening}


@pytest.mark.parametrize("name", LINKS[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_named_and_never_waited_for(folder, name, kind):
    (folder / name).unlink()
    KINDS[kind](folder / name)
    for do in (check_folder, seal_folder):
        assert_reported(file_faults(folder, do), name, f"found {kind}")
    is_refused(folder, "found|changed since")


@pytest.mark.parametrize("name", [".checked/stamp.json", ".checked/samples.npy"])
def test_a_pipe_in_place_of_a_stamp_is_never_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    is_refused(folder, "has not been checked")
    assert file_faults(folder) == []
    assert len(open_folder(folder).labels) == ROWS


@contextlib.contextmanager
def an_ordinary_user() -> Iterator[None]:
    """The rights of one, where the tests run as the superuser, who may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", [*LINKS, "."])
def test_what_may_not_be_read_is_named(folder, name):
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        copy = Path(open_to_all) / "north"
        shutil.copytree(folder, copy)
        (copy / name).chmod(0)
        with an_ordinary_user():
            assert_reported(file_faults(copy), name if name != "." else "north", "Permission denied")
            if name != "samples.parquet":  # a training reads the table that the check left
                is_refused(copy, "Permission denied|changed since")
                with pytest.raises(DataError, match=r"Permission denied|changed since"):
                    load_sites(copy.parent)
        (copy / name).chmod(0o755)


def test_a_file_that_shrinks_while_it_is_read_is_reported(tmp_path, monkeypatch):
    folder, original = tmp_path / "north", arrays.read_header
    write_folder(folder, content(tiny_dataset(96, 24)))

    def shrinking(file, path):
        layout = original(file, path)
        os.truncate(path, 200)
        return layout

    monkeypatch.setattr(arrays, "read_header", shrinking)
    assert_reported(file_faults(folder), "picture.npy", "became shorter while it was read")


@pytest.mark.parametrize("do", [check_folder, seal_folder])
@pytest.mark.parametrize("change", [lambda path: path.touch(), lambda path: path.unlink(missing_ok=True)])
def test_files_that_change_or_vanish_during_a_check_get_no_stamp(folder, monkeypatch, do, change):
    original = check.array_faults

    def changing(*arguments):
        faults = original(*arguments)
        change(folder / "samples.parquet")
        return faults

    monkeypatch.setattr(check, "array_faults", changing)
    [fault] = file_faults(folder, do)
    assert "changed while it was read; check it again" in fault
    is_refused(folder, "changed since it was checked")


# --- stamps ---------------------------------------------------------------------------------------------------------


def restamped(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / ".checked" / "stamp.json"
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))

    return apply


def stamp_text(text: str) -> Callable[[Path], object]:
    return lambda f: (f / ".checked" / "stamp.json").write_text(text)


def damaged_table(folder: Path) -> None:
    path = folder / ".checked" / "samples.npy"
    path.write_bytes(path.read_bytes()[::-1])


STAMPS = {
    "gone": lambda f: shutil.rmtree(f / ".checked"),
    "no table": lambda f: (f / ".checked" / "samples.npy").unlink(),
    "no stamp": lambda f: (f / ".checked" / "stamp.json").unlink(),
    "empty": stamp_text(""),
    "list": stamp_text("[]"),
    "null": stamp_text("null"),
    "deep": stamp_text("[" * 200_000),
    "number": stamp_text("9" * 5000),
    "large": stamp_text(" " * (1 << 21)),
    "files": restamped(lambda raw: raw.update(files=1)),
    "names": restamped(lambda raw: raw.update(files=["samples.parquet"])),
    "no files": restamped(lambda raw: raw.pop("files")),
    "table cut": lambda f: os.truncate(f / ".checked" / "samples.npy", 300),
    "table damaged": damaged_table,
    "table object": lambda f: np.save(f / ".checked" / "samples.npy", np.array([{}]), allow_pickle=True),
}


@pytest.mark.parametrize("name", STAMPS)
def test_a_damaged_stamp_is_none(folder, name):
    STAMPS[name](folder)
    is_refused(folder, r"north has not been checked.*; run `fedrecon data check .*north`")
    assert file_faults(folder) == []
    assert len(open_folder(folder).labels) == ROWS


def in_place(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Other bytes of the same number and time."""
    before, raw = path.stat(), path.read_bytes()
    path.write_bytes(change(raw))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_an_edit_of_the_description_is_detected_whatever_its_time(folder):
    in_place(folder / "dataset.yaml", lambda raw: raw.replace(b"middle", b"median"))
    is_refused(folder, r"changed since it was checked \(dataset\.yaml\)")


def test_numbers_that_change_under_the_same_size_and_time_are_seen_by_a_check_alone(folder):
    """The one thing that opening does not see, since it reads no array."""
    in_place(picture(folder), lambda raw: raw[:-4] + np.float32(0.25).tobytes())
    assert np.asarray(open_folder(folder).arrays["picture"])[-1, 0, 5, 5] == 0.25
    assert_reported(file_faults(folder), "picture.npy", "SHA-256")


@pytest.mark.parametrize("text", [("28, 1", "14, 2"), ("<f4", "<i4"), ("False", "True "), ("{", "(")])
def test_a_header_that_changes_under_the_same_size_and_time_is_seen_when_it_is_opened(folder, text):
    in_place(picture(folder), lambda raw: raw.replace(*(part.encode() for part in text), 1))
    is_refused(folder, r"picture\.npy: expected")


# --- several sites --------------------------------------------------------------------------------------------------


def load_sites(root: Path):
    return Sites().load(SitesParams(name="sites"), root, 0)


def test_a_modality_that_one_site_lacks_is_normal_and_one_that_all_lack_is_a_fault(tmp_path):
    root = write_toy_sites(tmp_path)
    assert (load_sites(root).rows["features"] >= 0).any()
    shutil.rmtree(root / "north")
    with pytest.raises(DataError, match="expected a sample with modality 'features', found none at any site"):
        load_sites(root)


@pytest.mark.parametrize("gone", [True, False])
def test_a_site_whose_description_is_lost_does_not_drop_out_in_silence(tmp_path, gone):
    root = write_toy_sites(tmp_path)
    path = root / "south" / "dataset.yaml"
    path.unlink()
    if not gone:
        path.mkdir()
    with pytest.raises(DataError, match=r"south.*expected (dataset\.yaml|the description)"):
        load_sites(root)


def test_other_folders_beside_the_sites_are_none(tmp_path):
    root = write_toy_sites(tmp_path)
    (root / "notes").mkdir()
    assert load_sites(root).sites == ("north", "south")


def test_sequences_that_are_equally_long_at_one_site_join_those_of_others(tmp_path):
    spec = DatasetSpec(
        name="s", modalities=(ModalitySpec(name="m", kind="sequence", shape=(3, 2)),), classes=("a", "b")
    )
    order = np.arange(2)
    samples = Samples(order, order, np.array([0, 2]), order, np.ones((2, 1), dtype=bool))
    equal = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    write_folder(tmp_path / "equal", FolderContent(spec, samples, {"m": equal}))
    write_folder(tmp_path / "ragged", FolderContent(spec, samples, {"m": equal[0]}, {"m": np.array([0, 1, 3])}))
    found = load_sites(tmp_path)
    assert found.offsets["m"].tolist() == [0, 3, 6, 7, 9]
    assert np.array_equal(np.asarray(found.arrays["m"])[:6], equal.reshape(6, 2))


# --- as a person meets it -------------------------------------------------------------------------------------------


COMMAND = {
    "array": resaved(lambda a: put(a, 0, np.nan)),
    "table": in_row(0, label=9),
    "yaml": as_text(BOMB),
    "pipe": lambda f: (picture(f).unlink(), os.mkfifo(picture(f))),
    "bytes": as_text(b"\xff"),
    "name": lambda f: (f / "arrays" / "\udcff").touch(),
}


@pytest.mark.parametrize("verb", ["check", "seal"])
@pytest.mark.parametrize("name", COMMAND)
def test_the_command_prints_the_summary(folder, name, verb):
    COMMAND[name](folder)
    done = CliRunner().invoke(application, ["data", verb, str(folder)])
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 2
    assert "Traceback" not in done.output
    assert str(folder) in done.output
    assert all(str(folder) in line for line in done.output.splitlines())


RUINS = {
    "changed": (resaved(lambda a: a + 1), r"south changed since it was checked \(arrays/picture.npy\); run `fedrecon"),
    "cut": (lambda f: os.truncate(picture(f), 500), r"south changed since it was checked \(arrays/picture.npy\)"),
    "gone": (lambda f: picture(f).unlink(), r"south changed since it was checked \(arrays/picture.npy\)"),
    "pipe": (COMMAND["pipe"], r"south changed since it was checked \(arrays/picture.npy\)"),
    "yaml": (as_text("{"), r"south/dataset.yaml is not valid YAML"),
    "no yaml": (lambda f: (f / "dataset.yaml").unlink(), "south: expected dataset.yaml with the other files of a site"),
    "link": (lambda f: (picture(f).unlink(), picture(f).symlink_to("/dev/zero")), "south changed since"),
}


@pytest.mark.parametrize("name", RUINS)
def test_a_run_over_folders_names_the_one_that_went_bad(tmp_path, name):
    change, words = RUINS[name]
    root = write_toy_sites(tmp_path / "sites")
    raw = settings(data={"name": "sites", "root": "sites"}, sites={"count": 2}, missing={}, rounds=2)
    change(root / "south")
    with pytest.raises(DataError, match=words) as caught:
        InProcess().run(Job.of(create_run(write(tmp_path, raw), out=tmp_path / "run")))
    assert str(caught.value).isprintable()


def test_a_folder_that_was_mended_and_sealed_trains(tmp_path):
    root = write_toy_sites(tmp_path / "sites")
    resaved(lambda a: a + 1)(root / "south")
    assert seal_folder(root / "south") == []
    raw = settings(data={"name": "sites", "root": "sites"}, sites={"count": 2}, missing={}, rounds=2)
    InProcess().run(Job.of(create_run(write(tmp_path, raw), out=tmp_path / "run")))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"

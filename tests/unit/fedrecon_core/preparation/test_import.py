"""``fedrecon data import``: tables and files become site folders; a fault of them is one line with its place."""

import copy
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fedrecon_core.data.site_folder.check import check_folder
from fedrecon_core.data.site_folder.opening import open_folder
from tests.helpers.raw_data import Letters, contents, registered
from tests.helpers.runs import caller, refused

HEADER = ["visit", "patient", "clinic", "part", "age", "pressure", "note", "picture", "found"]
COUNT = 24
MAPPING = {
    "name": "heart",
    "id": "visit",
    "label": "found",
    "group": "patient",
    "split": {"column": "part", "validation": ["val", "dev"]},
    "modalities": {"bedside": {"columns": ["age", "pressure"], "scale": "standard"}},
}
NOTE = {"text": "note", "feature": {"name": "toy_letters"}}
PICTURE = {"files": "pictures/{picture}.png", "feature": {"name": "pixels", "size": [4, 4], "mode": "L"}}


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with registered():
        yield caller(monkeypatch, capsys)


def rows() -> list[list[str]]:
    """Visits of eight patients, three each; some cells are empty."""
    parts = ["train", "train", "train", "train", "val", "dev", "test", "test"]
    return [
        [
            f"v{number:02d}",
            f"p{number // 3}",
            ["North", "St.Mary"][number // 3 % 2],
            parts[number // 3],
            str(40 + number),
            "" if number % 5 == 0 else f"{100 + number}.5",
            "" if number % 4 == 0 else "abc"[: 1 + number % 3],
            "" if number % 6 == 0 else f"x{number}",
            ["ill", "healthy"][number % 2],
        ]
        for number in range(COUNT)
    ]


def write_table(base: Path, table: list[list[str]], header: list[str] = HEADER, **form) -> Path:
    separator, encoding = form.get("separator", ","), form.get("encoding", "utf-8")
    text = "\n".join(separator.join(line) for line in [header, *table]) + "\n"
    (base / "visits.csv").write_bytes(text.encode(encoding))
    return base / "visits.csv"


def write_mapping(base: Path, changes: dict | None = None) -> Path:
    """``MAPPING`` with keys replaced; a key that is None is left out."""
    mapping = {**copy.deepcopy(MAPPING), **(changes or {})}
    kept = {key: value for key, value in mapping.items() if value is not None}
    (base / "map.yaml").write_text(yaml.safe_dump(kept))
    return base / "map.yaml"


def write_pictures(base: Path) -> None:
    (base / "pictures").mkdir()
    for number in range(COUNT):
        if number % 6:
            Image.fromarray(np.full((4, 4), 10 * number, dtype=np.uint8)).save(base / "pictures" / f"x{number}.png")


def bring(command, base: Path, table=None, changes=None, **form):
    """Run the import over a table and a mapping."""
    return bring_to(command, base, "out", rows() if table is None else table, changes, **form)


def bring_to(command, base: Path, out: str, table, changes=None, **form):
    file = write_table(base, table, **form)
    return command("data", "import", file, "--map", write_mapping(base, changes), "--out", base / out)


def with_cell(row: int, column: str, text: str) -> list[list[str]]:
    table = rows()
    table[row][HEADER.index(column)] = text
    return table


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_table_becomes_a_checked_folder(command, tmp_path):
    code, out, err = bring(command, tmp_path, changes={"natural": "clinic"})
    assert (code, err) == (0, "")
    assert f"--set data.name=folder --set data.root={tmp_path / 'out'} --set data.partition=iid\n" in out
    assert check_folder(tmp_path / "out") == []
    found = open_folder(tmp_path / "out")
    assert found.spec.classes == ("healthy", "ill")
    assert found.labels.tolist() == [1, 0] * 12
    assert found.ids.tolist() == list(range(COUNT))
    assert found.cluster_ids.tolist() == [number // 3 for number in range(COUNT)]
    assert found.natural_ids.tolist() == [number // 3 % 2 for number in range(COUNT)]
    assert np.bincount(found.split).tolist() == [12, 6, 6]
    assert found.spec["bedside"].scale == "standard"
    present = found.rows["bedside"] >= 0
    assert present.tolist() == [number % 5 != 0 for number in range(COUNT)]  # an empty cell, and the row lacks it
    assert found.arrays["bedside"][0].tolist() == [41.0, 101.5]


def test_files_and_texts_go_through_their_features(command, tmp_path):
    write_pictures(tmp_path)
    code, _, err = bring(command, tmp_path, changes={"modalities": {"xray": PICTURE, "words": NOTE}})
    assert (code, err) == (0, "")
    found = open_folder(tmp_path / "out")
    assert found.spec["xray"].shape == (1, 4, 4)
    assert (found.rows["xray"] >= 0).tolist() == [number % 6 != 0 for number in range(COUNT)]
    assert np.allclose(found.arrays["xray"][found.rows["xray"][7]], 70 / 255, atol=1e-6)
    assert (found.rows["words"] >= 0).tolist() == [number % 4 != 0 for number in range(COUNT)]
    start, end = found.offsets["words"][found.rows["words"][2] :][:2]
    assert found.arrays["words"][start:end, 0].tolist() == [ord(letter) for letter in "abc"]


def test_a_mapping_overrides_the_specification_of_a_feature(command, tmp_path):
    likelihood = {"name": "laplace", "std": 0.5}
    changes = {"modalities": {"words": {**NOTE, "scale": "standard", "likelihood": likelihood}}}
    assert bring(command, tmp_path, changes=changes)[0] == 0
    spec = open_folder(tmp_path / "out").spec["words"]
    assert (spec.scale, spec.likelihood.name, spec.likelihood.std) == ("standard", "laplace", 0.5)


def test_files_of_text_are_read_in_the_tables_encoding(command, tmp_path):
    (tmp_path / "notes").mkdir()
    for number in range(COUNT):
        (tmp_path / "notes" / f"v{number:02d}.txt").write_bytes("é".encode("latin-1"))
    notes = {"files": "notes/{visit}.txt", "feature": {"name": "toy_letters"}}
    changes = {"encoding": "latin-1", "modalities": {"words": notes}}
    assert bring(command, tmp_path, changes=changes)[0] == 0
    assert open_folder(tmp_path / "out").arrays["words"][0, 0] == ord("é")


def test_every_site_gets_a_folder_with_the_same_specification(command, tmp_path):
    table = rows()
    for row in table:
        row[HEADER.index("pressure")] = "" if row[2] == "North" else row[HEADER.index("pressure")]
    code, out, err = bring(command, tmp_path, table, {"site": "clinic"})
    assert (code, err) == (0, "")
    message = f"--set data.name=sites --set data.root={tmp_path / 'out'} --set data.partition=iid --set sites.count=2\n"
    assert message in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["North", "St.Mary"]
    north, mary = (open_folder(tmp_path / "out" / name) for name in ("North", "St.Mary"))
    assert north.spec == mary.spec
    assert not (north.rows["bedside"] >= 0).any()  # North really lacks it
    assert sorted([*north.ids, *mary.ids]) == list(range(COUNT))
    assert not set(north.cluster_ids.tolist()) & set(mary.cluster_ids.tolist())
    code, out, _ = command("data", "describe", tmp_path / "out")
    assert code == 0 and "2 sites" in out


def test_a_hospital_that_lacks_a_modality_imports_its_table_alone(command, tmp_path):
    write_pictures(tmp_path)
    table = [[*row[:7], "", row[8]] for row in rows()]  # no picture at all
    changes = {"modalities": {**MAPPING["modalities"], "xray": PICTURE}}
    code, out, err = bring(command, tmp_path, table, changes)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if "no sample has xray" in line]
    assert "fedrecon run" not in out  # the folder alone is no data set of a run
    assert check_folder(tmp_path / "out") == []
    found = open_folder(tmp_path / "out")
    assert found.spec.names == ("bedside", "xray")
    assert not (found.rows["xray"] >= 0).any()
    assert bring_to(command, tmp_path, "whole", rows(), changes)[0] == 0
    assert open_folder(tmp_path / "whole").spec == found.spec  # the federation agrees


def test_parquet_gives_what_csv_gives(command, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert bring(command, tmp_path)[0] == 0
    columns = {name: list(cells) for name, cells in zip(HEADER, zip(*rows(), strict=True), strict=True)}
    typed = {
        **columns,
        "age": [int(cell) for cell in columns["age"]],
        "pressure": [float(cell) if cell else None for cell in columns["pressure"]],
    }
    pq.write_table(pa.table(typed), tmp_path / "visits.parquet")
    call = ("data", "import", tmp_path / "visits.parquet", "--map", tmp_path / "map.yaml", "--out", tmp_path / "other")
    assert command(*call)[0] == 0
    assert contents(tmp_path / "other") == contents(tmp_path / "out")


def test_a_table_with_another_locale_is_read_by_its_mapping(command, tmp_path):
    assert bring(command, tmp_path)[0] == 0
    before = contents(tmp_path / "out")
    table = [[cell.replace(".", ",") if cell[-2:] == ".5" else cell or "k. A." for cell in row] for row in rows()]
    table = [["ungültig" if cell == "ill" else cell for cell in row] for row in table]
    changes = {"encoding": "cp1252", "separator": ";", "decimal": ",", "empty": ["k. A."]}
    file = write_table(tmp_path, table, separator=";", encoding="cp1252")
    mapping = write_mapping(tmp_path, {**changes, "classes": ["healthy", "ungültig"]})
    assert command("data", "import", file, "--map", mapping, "--out", tmp_path / "other")[0] == 0
    found = open_folder(tmp_path / "other")
    assert found.spec.classes == ("healthy", "ungültig")
    assert (tmp_path / "other" / "arrays" / "bedside.npy").read_bytes() == before["arrays/bedside.npy"]
    assert (tmp_path / "other" / "samples.parquet").read_bytes() == before["samples.parquet"]


def test_a_mark_of_excel_before_the_header_is_no_part_of_it(command, tmp_path):
    assert bring(command, tmp_path, encoding="utf-8-sig")[0] == 0


@pytest.mark.parametrize("listed", [True, False])
def test_labels_may_be_several(command, tmp_path, listed):
    table = [[*row, str(int(n % 2 == 0)), str(int(n % 3 == 0))] for n, row in enumerate(rows())]
    for n, row in enumerate(table):
        row[HEADER.index("found")] = "|".join(name for name, k in (("a", 2), ("b", 3)) if n % k == 0)
    label = {"column": "found", "separator": "|"} if listed else {"columns": ["is_a", "is_b"]}
    changes = {"label": label, "classes": ["a", "b"]}
    assert bring(command, tmp_path, table, changes, header=[*HEADER, "is_a", "is_b"])[0] == 0
    found = open_folder(tmp_path / "out")
    assert found.spec.target == "multilabel"
    assert found.labels.tolist() == [[int(n % 2 == 0), int(n % 3 == 0)] for n in range(COUNT)]


def test_classes_that_are_numbers_are_in_the_order_of_numbers(command, tmp_path):
    table = rows()
    for n, row in enumerate(table):
        row[HEADER.index("found")] = str(n % 3 * 5)  # 0, 5, 10
    assert bring(command, tmp_path, table)[0] == 0
    assert open_folder(tmp_path / "out").spec.classes == ("0", "5", "10")


def test_ids_that_are_numbers_are_kept_and_others_are_numbered(command, tmp_path):
    table = rows()
    for n, row in enumerate(table):
        row[HEADER.index("visit")] = str(1000 - n)
    assert bring(command, tmp_path, table)[0] == 0
    assert open_folder(tmp_path / "out").ids.tolist() == [1000 - n for n in range(COUNT)]


@pytest.mark.parametrize("form", ["--{}", "-", "+{}", "1{}\u0663"])
def test_ids_that_only_look_like_numbers_are_numbered(command, tmp_path, form):
    table = rows()
    for n, row in enumerate(table):
        row[HEADER.index("visit")] = form.format(f"{n:02d}") if "{" in form else f"{n}{form}"
    assert bring(command, tmp_path, table)[0] == 0
    assert sorted(open_folder(tmp_path / "out").ids.tolist()) == list(range(COUNT))


@pytest.mark.parametrize("text", ["1e2", "+1.5", "-.5", "7.", "0012", "1E-3"])
def test_every_plain_way_to_write_a_number_is_read(command, tmp_path, text):
    assert bring(command, tmp_path, with_cell(1, "age", text))[0] == 0
    assert open_folder(tmp_path / "out").arrays["bedside"][0, 0] == np.float32(text)


def test_numbers_of_parquet_have_their_point_beside_texts_with_a_comma(command, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(HEADER, map(list, zip(*rows(), strict=True)), strict=True))
    typed = {**columns, "age": [n / 4 for n in range(COUNT)], "pressure": [f"{n},5" for n in range(COUNT)]}
    pq.write_table(pa.table(typed), tmp_path / "v.parquet")
    mapping = write_mapping(tmp_path, {"decimal": ","})
    assert command("data", "import", tmp_path / "v.parquet", "--map", mapping, "--out", "out")[0] == 0
    assert open_folder(tmp_path / "out").arrays["bedside"][5].tolist() == [1.25, 5.5]


def patients(numbers, clinic: str = "North") -> list[list[str]]:
    """A table of patients of 1 to 5 visits each."""
    visits = [(number, visit) for number in numbers for visit in range(1 + number % 5)]
    return [
        [f"v{n}.{v}", f"p{n}", clinic, "", "50", "100.5", "", "", ["ill", "healthy"][(n + v) % 2]] for n, v in visits
    ]


def dealt(command, base: Path, out: str, table, seed: int = 0) -> dict[str, int]:
    """Patient -> split of the imported table; every visit of a patient is in the same one."""
    shares = {"train": 0.5, "validation": 0.3, "test": 0.2, "seed": seed}
    assert bring_to(command, base, out, table, {"split": None, "shares": shares, "id": None})[0] == 0
    found: dict[str, int] = {}
    for row, split in zip(table, open_folder(base / out).split.tolist(), strict=True):
        assert found.setdefault(row[1], split) == split
    return found


def by_hand(patient: str, seed: int) -> int:
    """A chance from the first bits of a hash: below 0.5 train, below 0.8 validation, else test."""
    text = f"{seed}\x1fstr:import\x1fstr:heart\x1fstr:{patient}"
    chance = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
    return 0 if chance < 0.5 else 1 if chance < 0.8 else 2


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_deal_whole_groups_by_the_hash_of_their_text(command, tmp_path, seed):
    found = dealt(command, tmp_path, "out", patients(range(400)), seed)
    assert found == {f"p{n}": by_hand(f"p{n}", seed) for n in range(400)}
    assert np.abs(np.bincount(list(found.values())) / 400 - [0.5, 0.3, 0.2]).max() < 0.08


def test_a_patient_is_in_the_same_split_at_every_hospital_and_in_a_grown_table(command, tmp_path):
    north = dealt(command, tmp_path, "north", patients(range(60)))
    south = dealt(command, tmp_path, "south", patients(range(110, 30, -1), "South"))
    shared = north.keys() & south.keys()
    assert len(shared) == 29
    assert {north[name] for name in shared} == {0, 1, 2}
    assert all(north[name] == south[name] for name in shared)
    grown = dealt(command, tmp_path, "grown", patients([*range(100, 200), *range(60)]))
    assert {name: grown[name] for name in north} == north
    assert dealt(command, tmp_path, "other", patients(range(60)), seed=1) != north


def test_a_split_without_a_share_stays_empty(command, tmp_path):
    shares = {"train": 0.7, "validation": 0.3, "test": 0}
    assert bring_to(command, tmp_path, "out", patients(range(50)), {"split": None, "shares": shares})[0] == 0
    assert set(open_folder(tmp_path / "out").split.tolist()) == {0, 1}


def test_texts_of_parquet_have_a_decimal_comma_however_they_are_stored(command, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(HEADER, map(list, zip(*rows(), strict=True)), strict=True))
    texts = pa.array([f"{n},5" for n in range(COUNT)])
    stored = {"age": texts.cast(pa.large_string()), "pressure": texts.dictionary_encode()}
    pq.write_table(pa.table({**columns, **stored}), tmp_path / "v.parquet")
    mapping = write_mapping(tmp_path, {"decimal": ","})
    assert command("data", "import", tmp_path / "v.parquet", "--map", mapping, "--out", "out")[0] == 0
    assert open_folder(tmp_path / "out").arrays["bedside"][5].tolist() == [5.5, 5.5]


def test_files_that_may_be_missing_are_really_missing(command, tmp_path):
    write_pictures(tmp_path)
    for number in (1, 2):
        (tmp_path / "pictures" / f"x{number}.png").unlink()
    changes = {"modalities": {**MAPPING["modalities"], "xray": {**PICTURE, "missing": "allow"}}}
    assert bring(command, tmp_path, changes=changes)[0] == 0
    found = open_folder(tmp_path / "out")
    assert (found.rows["xray"] >= 0).tolist() == [n % 6 != 0 and n not in (1, 2) for n in range(COUNT)]


def test_paths_begin_at_the_folder_that_is_named(command, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_pictures(tmp_path / "elsewhere")
    assert bring(command, tmp_path, changes={"folder": "elsewhere", "modalities": {"xray": PICTURE}})[0] == 0


def test_an_interrupted_import_resumes_to_the_same_bytes(command, tmp_path, monkeypatch):
    changes = {"modalities": {**MAPPING["modalities"], "words": NOTE}, "site": "clinic"}
    assert bring(command, tmp_path, changes=changes)[0] == 0
    whole = contents(tmp_path / "out")
    call = ("data", "import", tmp_path / "visits.csv", "--map", tmp_path / "map.yaml", "--out", tmp_path / "other")

    def stop(self, contents):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Letters, "extract", stop)
        code, _, err = command(*call, "--cache", tmp_path / "new")
    assert code == 130
    assert "the same command continues: fedrecon data import" in err
    assert command(*call)[0] == 0
    assert contents(tmp_path / "other") == whole


def test_a_file_that_changed_in_between_is_not_mixed_with_the_old(command, tmp_path, monkeypatch):
    write_pictures(tmp_path)
    changes = {"modalities": {"xray": PICTURE, "words": NOTE}}

    def stop(self, contents):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Letters, "extract", stop)
        assert bring(command, tmp_path, changes=changes)[0] == 130
    Image.fromarray(np.zeros((5, 9), dtype=np.uint8)).save(tmp_path / "pictures" / "x1.png")
    refused(bring(command, tmp_path, changes=changes), "unfinished preparation of other files")


@pytest.mark.parametrize("part", ["number", "file", "mapping"])
def test_an_import_resumes_only_with_the_same_input(command, tmp_path, monkeypatch, part):
    write_pictures(tmp_path)
    changes = {"modalities": {**MAPPING["modalities"], "xray": PICTURE, "words": NOTE}}

    def stop(self, contents):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Letters, "extract", stop)
        assert bring(command, tmp_path, changes=changes)[0] == 130
    picture = tmp_path / "pictures" / "x1.png"
    known, times = picture.read_bytes(), picture.stat()
    other = {
        "number": lambda: bring(command, tmp_path, with_cell(1, "age", "99"), changes),
        "file": lambda: (picture.write_bytes(known + b"\0"), bring(command, tmp_path, changes=changes))[1],
        "mapping": lambda: bring(command, tmp_path, changes={**changes, "natural": "clinic"}),
    }
    refused(other[part](), "unfinished preparation of other files or with other options")
    picture.write_bytes(known)
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert bring(command, tmp_path, changes=changes)[0] == 0  # as it was: it goes on
    assert open_folder(tmp_path / "out").arrays["bedside"][0].tolist() == [41.0, 101.5]


# --- what is wrong with a table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "changes", "words"),
    [
        (with_cell(3, "age", "old"), {}, ["line 5, column 'age': expected a number, found 'old'", "under empty:"]),
        (with_cell(3, "age", "NaN"), {}, ["line 5, column 'age': expected a number, found 'NaN'"]),
        (with_cell(3, "age", "inf"), {}, ["line 5, column 'age': expected a number, found 'inf'"]),
        (with_cell(3, "age", "1,5").copy(), {"separator": ";"}, ["column 'age'", "decimal: ','"]),
        (with_cell(3, "age", "1_000"), {}, ["found '1_000'; remove the thousands separators"]),
        (with_cell(3, "age", "1 000.5"), {}, ["found '1 000.5'; remove the thousands separators"]),
        (with_cell(3, "age", "0x1F"), {}, ["expected a number, found '0x1F'"]),
        (with_cell(3, "age", "\u0663"), {}, ["expected a number, found '\u0663'"]),
        (with_cell(3, "age", "1.234"), {"decimal": ","}, ["found '1.234'; the mapping sets decimal: ','", "thousands"]),
        (with_cell(3, "visit", "v01"), {}, ["line 5, column 'visit': expected each id once", "'v01' in line 3 too"]),
        (with_cell(3, "visit", ""), {}, ["line 5, column 'visit': expected an id in every row, found an empty cell"]),
        (with_cell(3, "found", ""), {}, ["line 5, column 'found': expected a class in every row"]),
        (with_cell(3, "patient", ""), {}, ["line 5, column 'patient': expected a group in every row"]),
        (
            with_cell(3, "patient", "p7"),
            {},
            ["column 'patient': expected each group in one split", "which leaks held-out data"],
        ),
        (with_cell(3, "part", "trian"), {}, ["line 5, column 'part': expected train, val, dev, test, found 'trian'"]),
        (with_cell(3, "clinic", "../x"), {"site": "clinic"}, ["column 'clinic': expected a site's name (letters"]),
        (
            with_cell(3, "clinic", "a b"),
            {"site": "clinic"},
            ["line 5, column 'clinic': expected a site's name"],
        ),
        (with_cell(3, "clinic", "x" * 101), {"site": "clinic"}, ["column 'clinic': expected a site's name (letters"]),
        (
            with_cell(3, "clinic", "north"),
            {"site": "clinic"},
            ["differ in more than case, found 'north'", "line 2"],
        ),
        (with_cell(3, "clinic", ".x"), {"site": "clinic"}, ["column 'clinic': expected a site's name (letters"]),
        (with_cell(3, "found", "well"), {"classes": ["ill", "healthy"]}, ["classes (ill, healthy), found 'well'"]),
        (rows(), {"label": {"columns": ["age"]}, "classes": None}, ["column 'age': expected 0 or 1, found '40'"]),
        (rows(), {"label": "foudn"}, ["expected the columns 'foudn' that", "Did you mean 'found'?"]),
        (rows(), {"separator": ";"}, ["found visit,patient", "The separator is ';'"]),
        ([], {}, ["visits.csv: expected rows below the header, found none"]),
        ([*rows(), ["v99", "p9"]], {}, ["line 26: expected 9 cells as in the header, found 2"]),
        (with_cell(3, "note", '"abc'), {}, ["expected CSV, found: unexpected end of data"]),
        ([[*row[:8], "ill"] for row in rows()], {}, ["column 'found': expected at least two classes, found 1"]),
        ([[*row[:3], "test", *row[4:]] for row in rows()], {}, ["expected a row of the split train, found none"]),
        (rows()[:2], {"split": None, "shares": {}}, ["shares.", "found none of 1", "split:"]),
    ],
)
def test_a_fault_of_the_table_is_one_line_with_its_place(command, tmp_path, table, changes, words):
    separator = changes.get("separator", ",") if "decimal" in str(words) else ","
    refused(bring(command, tmp_path, table, changes, separator=separator), *words)
    assert not (tmp_path / "out").exists()


def test_what_a_line_quotes_cannot_break_it_or_command_the_terminal(command, tmp_path):
    quoted = bring(command, tmp_path, with_cell(3, "age", '"x\ny\x1b[31m\x07\u2028z\tt"'))
    refused(quoted, "column 'age': expected a number, found 'x y?[31m? z t'")
    missing = tmp_path / "a\nb\x1b[2Jc.csv"
    call = ("data", "import", missing, "--map", write_mapping(tmp_path), "--out", tmp_path / "out")
    refused(command(*call), "a b?[2Jc.csv: expected a CSV or Parquet file")


def test_a_column_that_stands_twice_is_refused(command, tmp_path):
    header = [*HEADER[:-2], "age", "found"]
    refused(bring(command, tmp_path, header=header), "expected each column once in the header, found 'age'")


@pytest.mark.parametrize(
    ("encoding", "named", "words"),
    [
        ("latin-1", "utf-8", ["expected text in utf-8, found byte 0xe9", "encoding: cp1252"]),
        ("utf-16", "utf-8", ["expected text in utf-8, found byte 0xff"]),
        ("utf-8", "undefined", ["encoding: expected one that Python knows", "found 'undefined'"]),
        ("utf-8", "utf\0", ["encoding: expected one that Python knows"]),
        ("utf-8", "utf-9", ["encoding: expected one that Python knows", "found 'utf-9'"]),
    ],
)
def test_another_encoding_is_named_with_the_byte(command, tmp_path, encoding, named, words):
    table = with_cell(3, "note", "é")
    refused(bring(command, tmp_path, table, {"encoding": named}, encoding=encoding), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04rest", "found a workbook or an archive; save it as CSV"),
        (b"PAR1rest", "expected a Parquet file, found: "),
        (b"", "that the mapping names, found an empty file"),
    ],
)
def test_a_file_that_is_no_table_is_named(command, tmp_path, content, words):
    (tmp_path / "visits.csv").write_bytes(content)
    mapping = write_mapping(tmp_path)
    refused(command("data", "import", tmp_path / "visits.csv", "--map", mapping, "--out", tmp_path / "out"), words)


def test_a_file_that_is_not_there_is_named(command, tmp_path):
    mapping = write_mapping(tmp_path)
    refused(command("data", "import", "no.csv", "--map", mapping, "--out", "out"), "no.csv: expected a CSV or Parquet")
    table = write_table(tmp_path, rows())
    refused(command("data", "import", table, "--map", "no.yaml", "--out", "out"), "no.yaml does not exist")


def test_a_parquet_column_of_lists_is_named(command, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(HEADER, map(list, zip(*rows(), strict=True)), strict=True))
    pq.write_table(pa.table({**columns, "age": [[1.0]] * COUNT}), tmp_path / "v.parquet")
    outcome = command("data", "import", tmp_path / "v.parquet", "--map", write_mapping(tmp_path), "--out", "out")
    refused(outcome, "column 'age': expected texts or numbers, found list<")


# --- what is wrong with files ---------------------------------------------------------------------------------------


def test_files_that_are_not_there_are_listed(command, tmp_path):
    write_pictures(tmp_path)
    for number in (1, 2, 3, 4):
        (tmp_path / "pictures" / f"x{number}.png").unlink()
    outcome = bring(command, tmp_path, changes={"modalities": {"xray": PICTURE}})
    refused(outcome, "found none for 4 rows", "x1.png", "x3.png, ...", "modalities.xray.missing: allow")
    assert "x4.png" not in outcome[2]


@pytest.mark.parametrize("cell", ["../../secret", "/etc/passwd", "x1\0"])
def test_a_path_that_leaves_the_folder_is_refused(command, tmp_path, cell):
    write_pictures(tmp_path)
    xray = {**PICTURE, "files": "{picture}", "missing": "allow"}
    outcome = bring(command, tmp_path, with_cell(3, "picture", cell), {"modalities": {"xray": xray}})
    refused(outcome, "line 5, column 'picture': ")


def test_a_link_that_leads_out_of_the_folder_is_refused(command, tmp_path):
    (tmp_path / "here").mkdir()
    write_pictures(tmp_path / "here")
    (tmp_path / "secret.png").write_bytes((tmp_path / "here" / "pictures" / "x1.png").read_bytes())
    (tmp_path / "here" / "pictures" / "x1.png").unlink()
    (tmp_path / "here" / "pictures" / "x1.png").symlink_to(tmp_path / "secret.png")
    outcome = bring(command, tmp_path, changes={"folder": "here", "modalities": {"xray": PICTURE}})
    refused(outcome, "line 3, column 'picture': ", "leads out of it")


def test_a_picture_that_is_none_is_named(command, tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "pictures" / "x7.png").write_bytes(b"no picture")
    code, _, err = bring(command, tmp_path, changes={"modalities": {"xray": PICTURE}})
    assert code == 2
    assert err.count("\n") == 1
    assert "x7.png" in err and "Traceback" not in err


def test_a_folder_of_files_that_is_not_there_is_named(command, tmp_path):
    outcome = bring(command, tmp_path, changes={"folder": "nowhere", "modalities": {"xray": PICTURE}})
    refused(outcome, "folder: expected the folder of the files of 'xray', found none at ")


# --- what is wrong with a mapping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lable": "found"}, ["lable: unknown key", "Did you mean 'label'?"]),
        ({"name": None}, ["name: this key is required and was not found"]),
        ({"label": None}, ["label: this key is required and was not found"]),
        ({"split": None}, ["split: expected split (a column) or shares", "found neither"]),
        ({"shares": {}}, ["split: expected split (a column) or shares", "found both"]),
        ({"split": None, "shares": {"train": 0.9}}, ["shares: expected train, validation and test to sum to 1"]),
        ({"split": {"column": "part", "test": "train"}}, ["split: expected each", "found 'train' twice"]),
        ({"classes": ["ill", "ill"]}, ["classes: expected each class once"]),
        ({"label": {"columns": ["age"]}, "classes": ["a", "b"]}, ["classes: expected a name for each of the 1 label"]),
        ({"label": {"columns": ["age", "age"]}}, ["label.columns: expected each column once, found"]),
        ({"modalities": {}}, ["modalities: expected"]),
        ({"modalities": {"Bed": {"columns": ["age"]}}}, ["modalities.Bed"]),
        (
            {"modalities": {"bed": {"column": ["age"]}}},
            ["modalities.bed: expected a mapping with one of the keys colu"],
        ),
        ({"modalities": {"bed": {"columns": ["age"], "scal": 1}}}, ["modalities.bed.scal: unknown", "'scale'"]),
        ({"modalities": {"note": {"text": "note"}}}, ["modalities.note.feature: this key is required"]),
        ({"modalities": {"note": {**NOTE, "feature": "toy_leters"}}}, ["unknown feature", "'toy_letters'"]),
        ({"modalities": {"note": {**NOTE, "feature": "pixels"}}}, ["expected a feature of text, found 'pixels'"]),
        (
            {"modalities": {"note": {**NOTE, "feature": {"name": "toy_letters", "longst": 2}}}},
            ["modalities.note.feature.longst: unknown key", "'longest'"],
        ),
    ],
)
def test_a_fault_of_the_mapping_is_one_line_with_its_key(command, tmp_path, changes, words):
    refused(bring(command, tmp_path, changes=changes), *words)
    assert not (tmp_path / "out").exists()

"""``fedrecon data list``, ``prepare`` and ``describe`` as a person meets them."""

import hashlib
import shutil

import numpy as np
import pytest
import yaml

from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.preparation import writer as driver
from tests.helpers.folders import content, write_toy_sites
from tests.helpers.raw_data import NAME, Letters, RawSet, contents, registered, write_raw
from tests.helpers.runs import caller, refused
from tests.helpers.toy import tiny_dataset, toy_settings

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def toy_set():
    with registered():
        yield


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return caller(monkeypatch, capsys)


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw")


# --- list -----------------------------------------------------------------------------------------------------------


def test_the_list_says_of_each_set_what_it_is_and_needs(command):
    code, out, err = command("data", "list")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("  ") and line.strip()}
    assert {"nothing", "multiclass"} <= set(rows["polydigits"])
    assert {"prepare", "words", "multiclass"} <= set(rows[NAME])
    assert "files" in rows["sites"]
    assert "second sentence" not in out
    assert max(map(len, out.splitlines())) <= 80 or "fedrecon data prepare NAME --layout" in out


# --- prepare --------------------------------------------------------------------------------------------------------


def test_a_prepared_folder_opens_under_the_name_of_its_set(command, raw, tmp_path):
    code, out, err = command("data", "prepare", NAME, "--raw", raw, "--out", "made")
    assert (code, err) == (0, "")
    assert "words: 12 of 12" in out
    assert f"--set data.name={NAME} --set data.root={tmp_path / 'made'}" in out
    found = RawSet().load(RawSet.Params(name=NAME), tmp_path / "made", 0)
    assert found.labels.tolist() == [0, 1] * 6
    assert found.arrays["words"][:3, 0].tolist() == [97.0, 97.0, 98.0]


def test_a_key_of_the_preparation_can_be_set(command, raw, tmp_path):
    assert command("data", "prepare", NAME, "--raw", raw, "--out", "made", "--set", "factor=2")[0] == 0
    assert open_folder(tmp_path / "made").arrays["words"][0, 0] == 194.0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("facter=2", ["--set facter: unknown key (found 2).", "Did you mean 'factor'?"]),
        ("factor=much", ["--set factor: expected a valid number", "found 'much'"]),
        ("layout=round", ["--set layout: expected 'flat' or 'deep', found 'round'"]),
        ("factor", ["--set expects key=value, found 'factor'"]),
    ],
)
def test_a_wrong_key_is_one_line_and_nothing_is_written(command, raw, tmp_path, setting, words):
    refused(command("data", "prepare", NAME, "--raw", raw, "--out", "made", "--set", setting), *words)
    assert not (tmp_path / "made").exists()


def test_all_missing_and_damaged_files_are_told_at_once(command, raw, tmp_path):
    (raw / "table.txt").unlink()
    for path in sorted((raw / "texts").glob("*"))[:9]:
        path.unlink()
    kept = raw / "texts" / "011.txt"
    (raw / "SHA256SUMS").write_text(
        f"{hashlib.sha256(b'other').hexdigest()}  texts/011.txt\n{'0' * 64}  gone.txt\nno checksum\n"
    )
    code, out, err = command("data", "prepare", NAME, "--raw", raw, "--out", "made")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"{raw / 'table.txt'}: expected a label per line, found none",
        f"{raw / 'texts/*.txt'}: expected a text per line, found 3 of at least 4",
        f"{kept}: expected the SHA-256 {hashlib.sha256(b'other').hexdigest()[:12]}... (SHA256SUMS), found "
        f"{hashlib.sha256(kept.read_bytes()).hexdigest()[:12]}...; fetch it again",
        f"{raw / 'gone.txt'}: expected the file that SHA256SUMS lists, found none",
        f"{raw / 'SHA256SUMS'}: line 3: expected a SHA-256 and a file name, found 'no checksum'",
        "fedrecon: 5 faults found, nothing was written; "
        f"`fedrecon data prepare {NAME} --layout` shows what is expected",
    ]
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["polydigits"], ["data set 'polydigits' needs no preparation: it is built in; set data.name: polydigits"]),
        (["sites"], ["data set 'sites' needs no preparation: data.name: sites opens data.root as it is"]),
        (["toy_rwa"], ["unknown data set 'toy_rwa'", f"Did you mean '{NAME}'?"]),
        ([NAME], ["--raw DIR is needed to prepare", "--layout"]),
        ([NAME, "--raw", "."], ["--out DIR is needed to prepare"]),
    ],
)
def test_what_cannot_be_prepared_is_said_in_words(command, arguments, words):
    refused(command("data", "prepare", *arguments), *words)


def test_the_layout_shows_files_for_each_way_and_keys_without_any_file(command):
    code, out, err = command("data", "prepare", NAME, "--layout")
    assert (code, err) == (0, "")
    for words in ("table.txt", "texts/*.txt", "(at least 4 files)", "--set layout=deep", "deep/texts/*.txt", "SHA256"):
        assert words in out
    assert [line.split() for line in out.splitlines() if line.strip().startswith("factor")] == [["factor", "1.0"]]
    assert "layout: of the files. factor: of the letters." in out


def test_a_second_preparation_into_the_folder_is_refused(command, raw, tmp_path):
    assert command("data", "prepare", NAME, "--raw", raw, "--out", "made")[0] == 0
    before = contents(tmp_path / "made")
    refused(
        command("data", "prepare", NAME, "--raw", raw, "--out", "made"), "found a prepared data set; choose another"
    )
    assert contents(tmp_path / "made") == before


def test_ctrl_c_tells_the_command_that_goes_on_and_it_does(command, raw, tmp_path, monkeypatch):
    def stop(self, contents):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Letters, "extract", stop)
        code, _, err = command("data", "prepare", NAME, "--raw", raw, "--out", "made here", "--set", "factor=2")
    assert code == 130
    going_on = f"fedrecon data prepare {NAME} --raw {raw} --out 'made here' --set factor=2"
    assert err == f"fedrecon: interrupted; the same command continues: {going_on}\n"
    assert command("data", "prepare", NAME, "--raw", raw, "--out", "made here", "--set", "factor=2")[0] == 0
    refused(command("data", "prepare", NAME, "--raw", raw, "--out", "made here"), "found a prepared data set")
    assert open_folder(tmp_path / "made here").arrays["words"][0, 0] == 194.0


def test_features_come_from_the_cache_that_is_named(command, raw, tmp_path):
    assert command("data", "prepare", NAME, "--raw", raw, "--out", "one", "--cache", "kept")[0] == 0
    read = len(Letters.read)
    assert read > 0
    assert command("data", "prepare", NAME, "--raw", raw, "--out", "two", "--cache", "kept")[0] == 0
    assert len(Letters.read) == read
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not (tmp_path / "cache").exists()
    assert command("data", "prepare", NAME, "--raw", raw, "--out", "three")[0] == 0
    assert (tmp_path / "cache" / "fedrecon" / "features").is_dir()


def test_a_file_at_fault_is_one_line_that_names_it(command, raw):
    (raw / "texts" / "003.txt").write_text(" ")
    code, _, err = command("data", "prepare", NAME, "--raw", raw, "--out", "made")
    assert code == 2
    assert err == f"fedrecon: {raw / 'texts' / '003.txt'}: expected letters, found none\n"


def test_the_progress_of_a_log_is_sparse(command, raw, monkeypatch):
    monkeypatch.setattr(driver, "BLOCK", 1)
    _, out, _ = command("data", "prepare", NAME, "--raw", raw, "--out", "made")
    assert [line for line in out.splitlines() if line.startswith("words")] == ["words: 12 of 12"]


# --- describe -------------------------------------------------------------------------------------------------------


def numbers_of(out: str, name: str) -> list[list[str]]:
    """The cells of every row that begins with ``name``."""
    return [line.removeprefix(f"  {name} ").split() for line in out.splitlines() if line.startswith(f"  {name} ")]


def test_a_folder_of_sites_is_described_as_it_lies(command, tmp_path):
    write_toy_sites(tmp_path / "sites")
    code, out, err = command("data", "describe", "sites", "--png", "picture.png")
    assert (code, err) == (0, "")
    assert "toy: 24 train, 12 validation, 12 test samples, 3 classes (multiclass), 2 sites" in out
    assert numbers_of(out, "low") == [["8", "4", "4"], ["0.0%", "50.0%", "0.0%"]]
    assert numbers_of(out, "north")[0] == ["12", "8", "4"]
    assert numbers_of(out, "south") == [["12", "4", "8"], ["0.0%", "100.0%", "0.0%"]]
    assert numbers_of(out, "features vector [5]") == [["50.0%", "33.3%", "66.7%"]]
    assert numbers_of(out, "picture + features + steps") == [["12", "8", "4"]]
    assert numbers_of(out, "picture + steps") == [["12", "4", "8"]]
    assert "Lengths of steps (at most 8 steps)" in out
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)
    assert max(map(len, out.splitlines())) <= 80


def test_one_folder_is_described_without_sites_and_draws_nothing_unasked(command, tmp_path):
    write_toy_sites(tmp_path / "sites")
    code, out, _ = command("data", "describe", "sites/north")
    assert code == 0
    assert "Samples by site" not in out
    assert "lack a modality, by" not in out  # north is complete
    assert list(tmp_path.glob("**/*.png")) == []


def test_lengths_count_every_sequence_and_name_their_quantiles(command, tmp_path):
    dataset = tiny_dataset(24, 12)
    write_toy_sites(tmp_path / "sites")
    _, out, _ = command("data", "describe", "sites")
    lengths = np.diff(dataset.offsets["steps"])
    expected = f"min {lengths.min()}, median {np.median(lengths):.0f}, 90% {np.quantile(lengths, 0.9):.0f}, max 8"
    assert expected in out
    bars = [line.split() for line in out.partition("Lengths of")[2].splitlines() if "#" in line]
    assert {int(steps): int(number) for steps, number, _ in bars} == {
        int(steps): int((lengths == steps).sum()) for steps in np.unique(lengths)
    }


def config_with(tmp_path, **sections):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(toy_settings(**sections)))
    return path


def test_a_config_is_described_as_its_run_will_see_it(command, tmp_path):
    levels = {"level": "sample", "rate": {"picture": 1.0}}
    path = config_with(tmp_path, missing={"train": levels, "test": {**levels, "draws": 3}})
    code, out, err = command("data", "describe", path)
    assert (code, err) == (0, "")
    assert "48 train, 24 validation, 72 test samples" in out
    assert "each test sample counts 3 times, under 3 masks" in out
    assert "validation and test samples are at the server" in out
    assert numbers_of(out, "picture image [1, 6, 6]") == [["100.0%", "0.0%", "100.0%"]]
    assert numbers_of(out, "features + steps") == [["48", "0", "72"]]
    assert numbers_of(out, "picture + features + steps") == [["0", "24", "0"]]
    site = numbers_of(out, "site-0000")
    assert len(site[0]) == 1  # training samples alone lie at the sites
    assert site[1] == ["100.0%", "0.0%", "0.0%"]


def test_missing_by_class_shows_what_depends_on_it(command, tmp_path):
    levels = {"level": "sample", "classes": {"high": {"steps": 1.0}}}
    _, out, _ = command("data", "describe", config_with(tmp_path, missing={"train": levels}))
    assert numbers_of(out, "high")[1] == ["0.0%", "0.0%", "100.0%"]
    assert numbers_of(out, "low")[1] == ["0.0%", "0.0%", "0.0%"]


def test_a_hundred_sites_are_summed_up(command, tmp_path):
    path = config_with(tmp_path, sites={"count": 100}, data={"name": "toy", "train": 600})
    code, out, _ = command("data", "describe", path, "--png", "many.png")
    assert code == 0
    table = out.partition("Samples by site")[2]
    names = [line.split()[0] for line in table.splitlines() if line.startswith("  site-")]
    assert names == [f"site-{n:04d}" for n in (0, 1, 2, 3, 96, 97, 98, 99)]
    assert numbers_of(out, "median of 100") == [["6"]]
    assert max(map(len, out.splitlines())) <= 80
    assert (tmp_path / "many.png").read_bytes().startswith(PNG)


def test_a_setting_changes_the_config(command, tmp_path):
    path = config_with(tmp_path)
    _, out, _ = command("data", "describe", path, "--set", "sites.count=2")
    assert numbers_of(out, "site-0001") == [["24"]]
    assert "site-0002" not in out


def test_faults_of_a_protocol_are_shown(command, tmp_path, monkeypatch):
    from dataclasses import replace

    import tests.helpers.toy as federation

    faulty = replace(tiny_dataset(), faults=("the test texts are those of validation",))
    monkeypatch.setattr(federation.Toy, "load", lambda *_: faulty)
    from fedrecon_core.data.dataset import forget_datasets

    forget_datasets()
    _, out, _ = command("data", "describe", config_with(tmp_path, data={"name": "toy", "train": 51}))
    forget_datasets()
    assert "fault of the protocol: the test texts are those of validation" in out


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda base: None, ["thing: expected a site folder, a folder of site folders or a config, found nothing"]),
        (lambda base: (base / "thing").mkdir(), ["thing: expected folders that contain a dataset.yaml, found none"]),
        (lambda base: (base / "thing").write_text("a: ["), ["thing is not valid YAML"]),
        (lambda base: (base / "thing").write_text("rouns: 3"), ["rouns: unknown key"]),
    ],
)
def test_what_cannot_be_described_is_one_line(command, tmp_path, make, words):
    make(tmp_path)
    refused(command("data", "describe", "thing"), *words)


def test_a_folder_that_changed_is_not_described(command, tmp_path):
    write_toy_sites(tmp_path / "sites")
    shutil.rmtree(tmp_path / "sites" / "south" / ".checked")
    refused(command("data", "describe", "sites"), "south has not been checked; run `fedrecon data check")


def test_a_setting_of_a_folder_is_refused(command, tmp_path):
    write_toy_sites(tmp_path / "sites")
    refused(command("data", "describe", "sites", "--set", "rounds=3"), "--set overrides keys of a config")


def test_a_picture_that_cannot_be_written_is_one_line_after_the_tables(command, tmp_path):
    write_toy_sites(tmp_path / "sites")
    code, out, err = command("data", "describe", "sites", "--png", "nowhere/picture.png")
    assert code == 2
    assert "Samples by class" in out
    assert err == "fedrecon: --png nowhere/picture.png cannot be written: No such file or directory\n"


def test_a_site_without_training_samples_has_no_rates(command, tmp_path):
    from fedrecon_core.data.site_folder.write import write_folder

    dataset = tiny_dataset(24, 12)
    present = np.ones((len(dataset.labels), 3), dtype=bool)
    present[:, 0] = dataset.labels != 0
    held = dataset.members(2)
    write_folder(tmp_path / "sites" / "north", content(dataset, present))
    write_folder(tmp_path / "sites" / "south", content(dataset, present[held], held))
    code, out, _ = command("data", "describe", "sites")
    assert code == 0
    assert numbers_of(out, "south")[1] == ["–", "–", "–"]

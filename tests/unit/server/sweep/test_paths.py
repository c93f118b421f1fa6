"""Paths of the wrong kind are explained, and a sweep overwrites nothing that it did not write."""

import json

import pytest
import yaml

from fedrecon_core.errors import UsageError
from server.sweep.paths import Kind, check_out, kind_of
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results, write_sweep

pytestmark = pytest.mark.quick


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one of each kind."""
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path)
    write_results(tmp_path / "runs" / "s", {"recovery": ["mask"]}, lambda _: right_with(0.5, 1))
    run = tmp_path / "runs" / "r"
    run.mkdir()
    (run / "config.yaml").write_text((tmp_path / "base.yaml").read_text())
    (run / "result.json").write_text(json.dumps({"status": "failed"}))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "dataset.yaml").write_text("name: x")
    return tmp_path


def test_kinds_of_paths(place):
    known = {
        "base.yaml": Kind.RUN_CONFIG,
        "runs/r/config.yaml": Kind.RUN_CONFIG,
        "sweep.yaml": Kind.SWEEP_CONFIG,
        "runs/s/sweep.yaml": Kind.LIST,
        "runs/r": Kind.RUN,
        "runs/s/cells/mask": Kind.RUN,
        "runs/s": Kind.SWEEP,
        "runs": Kind.SEVERAL,
        "site": Kind.SITE,
        "site/dataset.yaml": None,
        "nowhere": None,
        ".": None,  # a sweep's config in it makes no results of a folder
    }
    assert {name: kind_of(place / name) for name in known} == known


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "table runs/r",
            "expected the directory of a sweep or a packed sweep, found the directory of one run, runs/r: `fedrecon",
        ),
        ("plot runs/s/cells/mask", "found the directory of one run, runs/s/cells/mask: `fedrecon report runs/s/cells"),
        ("table sweep.yaml", "found the config of a sweep, sweep.yaml: `fedrecon sweep sweep.yaml` runs it"),
        ("table runs/s/sweep.yaml", "found the list of trials in the directory of a sweep, runs/s/sweep.yaml:"),
        ("table runs", "found a folder of runs or sweeps, runs: name one: runs/r and runs/s"),
        (
            "report runs",
            "expected the directory of one run or the directory of a sweep or a packed sweep, found a folder of runs",
        ),
        ("report base.yaml", "found the config of one run, base.yaml: `fedrecon run base.yaml` runs it"),
        ("report site", "found a site folder, site: `fedrecon data check site` checks it"),
        ("run sweep.yaml", "expected the config of one run, found the config of a sweep, sweep.yaml: `fedrecon sweep"),
        (
            "run runs/r",
            "found the directory of one run, runs/r: `fedrecon report runs/r` writes its report, ",
        ),
        (
            "run runs/s",
            "found the directory of a sweep, runs/s: `fedrecon table`, `plot` and `report runs/s` show",
        ),
        ("run --resume --out runs/s", "expected the directory of one run, found the directory of a sweep, runs/s"),
        ("run base.yaml --out runs/s", "expected the directory of one run, found the directory of a sweep, runs/s"),
        ("check sweep.yaml", "expected the config of one run, found the config of a sweep"),
        ("sweep base.yaml", "expected the config of a sweep, found the config of one run, base.yaml: `fedrecon run"),
        ("sweep runs/s", "expected the config of a sweep, found the directory of a sweep"),
        ("sweep runs/s/sweep.yaml", "expected the config of a sweep, found the list of trials"),
        ("sweep sweep.yaml --out runs/r", "expected the directory of a sweep, found the directory of one run, runs/r"),
        ("coherence runs/s", "expected the directory of one run, found the directory of a sweep, runs/s"),
    ],
)
def test_a_path_of_the_wrong_kind_is_explained(place, call, arguments, words):
    before = sorted(place.rglob("*"))
    refused(call(*arguments.split()), words)
    assert sorted(place.rglob("*")) == before


def test_a_path_in_a_command_can_be_copied(place, call):
    (place / "runs" / "r").rename(place / "my run")
    refused(call("table", "my run"), "`fedrecon report 'my run'` writes its report")


def test_a_sweep_as_the_base_of_a_sweep_is_refused(place, call):
    (place / "outer.yaml").write_text(yaml.safe_dump({"name": "o", "base": "sweep.yaml", "axes": {"seed": [1]}}))
    refused(call("sweep", "outer.yaml"), "expected the config of one run, found the config of a sweep")


# --- the directory of a new sweep ----------------------------------------------------------------------------------


FOREIGN = "expected a new or empty folder, or a sweep's, found"


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
@pytest.mark.parametrize("out", ["exp", "exp/."])
def test_the_config_of_a_sweep_is_not_overwritten_by_its_list_of_trials(tmp_path, monkeypatch, capsys, out, option):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "exp")
    (tmp_path / "exp" / "cells").mkdir()  # as an earlier version left it
    before = content(tmp_path)
    outcome = caller(monkeypatch, capsys)("sweep", "exp/sweep.yaml", "--out", out, *option)
    refused(outcome, f"--out exp: {FOREIGN} sweep.yaml in it, the config of a sweep, which the list of trials would ov")
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("notes.txt", "mine", "notes.txt in it"),
        ("reference.csv", "mine", "reference.csv in it"),
        ("cells/picture.png", "mine", "cells in it"),
        ("sweep.yaml", "method: bayes\n", "a sweep.yaml in it that `fedrecon sweep` did not write"),
        ("sweep.yaml", "[", "a sweep.yaml in it that `fedrecon sweep` did not write"),
        ("sweep.yaml", "cells:\n- a\n", "a sweep.yaml in it that `fedrecon sweep` did not write"),
    ],
)
def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path, monkeypatch, capsys, path, text, words):
    definition, out = write_sweep(tmp_path / "exp"), tmp_path / "out"
    (out / path).parent.mkdir(parents=True)
    (out / path).write_text(text)
    refused(caller(monkeypatch, capsys)("sweep", definition, "--out", out), f"--out {out}: {FOREIGN} {words}")
    assert [one.read_text() for one in out.rglob("*") if one.is_file()] == [text]


def test_new_folders_and_those_of_an_interrupted_start_are_accepted(tmp_path):
    for name in ("new", "empty", "hidden", "started"):
        out = tmp_path / name
        if name != "new":
            out.mkdir()
        if name == "hidden":
            (out / ".gitignore").write_text("*")
        if name == "started":
            with SweepDirectory(out).lock():
                pass
            assert {one.name for one in out.iterdir()} == {"cells", "run.lock"}
        check_out(out)


def test_the_directory_of_a_sweep_is_accepted_even_without_its_list(tmp_path):
    definition = read_definition(write_sweep(tmp_path / "exp"))
    directory, trials = SweepDirectory(tmp_path / "out"), build_trials(definition, tmp_path / "exp")
    directory.begin(trials[0])
    directory.record(definition, trials, [])
    (directory.path / "report.html").write_text("")
    check_out(directory.path)
    (directory.path / "sweep.yaml").write_text("[")
    check_out(directory.path)
    (directory.path / "sweep.yaml").unlink()
    check_out(directory.path)


def test_a_list_that_was_copied_without_its_trials_is_accepted(tmp_path):
    definition = read_definition(write_sweep(tmp_path / "exp"))
    directory = SweepDirectory(tmp_path / "out")
    directory.path.mkdir()
    directory.record(definition, build_trials(definition, tmp_path / "exp"), [])
    check_out(directory.path)
    (directory.path / "sweep.yaml").write_text("[")
    with pytest.raises(UsageError, match="did not write"):
        check_out(directory.path)

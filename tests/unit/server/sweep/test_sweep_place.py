"""A sweep takes no folder that holds something else, and writes over nothing that it did not make."""

import pytest

from fedrecon_core.errors import UsageError
from server.sweep.place import refuse_place
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import matrix
from tests.helpers.command import caller, refused
from tests.helpers.sweeps import write_sweep

pytestmark = pytest.mark.quick
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
    refused(outcome, f"--out exp: {FOREIGN} sweep.yaml in it, the config of a sweep, which the list of cells would ov")
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("notes.txt", "mine", "notes.txt in it"),
        ("reference.csv", "mine", "reference.csv in it"),
        ("cells/picture.png", "mine", "cells in it"),
        ("sweep.yaml", "method: bayes\n", "a sweep.yaml in it that `fedrecon sweep` did not make"),
        ("sweep.yaml", "[", "a sweep.yaml in it that `fedrecon sweep` did not make"),
        ("sweep.yaml", "cells:\n- a\n", "a sweep.yaml in it that `fedrecon sweep` did not make"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path, monkeypatch, capsys, path, text, words):
    definition, out = write_sweep(tmp_path / "exp"), tmp_path / "out"
    (out / path).parent.mkdir(parents=True)
    (out / path).write_text(text)
    refused(caller(monkeypatch, capsys)("sweep", definition, "--out", out), f"--out {out}: {FOREIGN} {words}")
    assert [one.read_text() for one in out.rglob("*") if one.is_file()] == [text]


def test_new_places_and_those_of_an_interrupted_start_are_taken(tmp_path):
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
        refuse_place(out)


def test_a_sweep_goes_on_in_its_own_directory_whatever_became_of_its_list(tmp_path):
    definition = read_definition(write_sweep(tmp_path / "exp"))
    directory, trials = SweepDirectory(tmp_path / "out"), matrix(definition, tmp_path / "exp")
    directory.begin(trials[0])
    directory.record(definition, trials, [])
    (directory.path / "report.html").write_text("")
    refuse_place(directory.path)
    (directory.path / "sweep.yaml").write_text("[")
    refuse_place(directory.path)
    (directory.path / "sweep.yaml").unlink()
    refuse_place(directory.path)


def test_a_list_that_was_copied_without_its_trials_is_gone_on_with(tmp_path):
    definition = read_definition(write_sweep(tmp_path / "exp"))
    directory = SweepDirectory(tmp_path / "out")
    directory.path.mkdir()
    directory.record(definition, matrix(definition, tmp_path / "exp"), [])
    refuse_place(directory.path)
    (directory.path / "sweep.yaml").write_text("[")
    with pytest.raises(UsageError, match="did not make"):
        refuse_place(directory.path)

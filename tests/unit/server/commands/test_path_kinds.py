"""A command that is given another kind of thing than it takes says which, and what to do with it."""

import json

import pytest
import yaml

from server.commands.path_kinds import Kind, kind_of
from tests.helpers.command import caller, refused
from tests.helpers.sweep_results import right_with, write_results
from tests.helpers.sweeps import write_sweep

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


def test_each_kind_is_known_and_nothing_else_is_taken_for_one(place):
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
        ("table runs/s/sweep.yaml", "found the list of cells that a sweep keeps of itself, runs/s/sweep.yaml:"),
        ("table runs", "found a folder of runs or sweeps, runs: name one: runs/r and runs/s"),
        (
            "report runs",
            "expected the directory of one run or the directory of a sweep or a packed sweep, found a folder of runs",
        ),
        ("report base.yaml", "found the config of one run, base.yaml: `fedrecon run base.yaml` runs it"),
        ("report site", "found a site folder, site: `fedrecon data check site` tries it"),
        ("run sweep.yaml", "expected the config of one run, found the config of a sweep, sweep.yaml: `fedrecon sweep"),
        ("run runs/r", "found the directory of one run, runs/r: `fedrecon report runs/r` shows it, `fedrecon run"),
        ("run runs/s", "found the directory of a sweep, runs/s: `fedrecon table`, `plot` and `report runs/s` show it"),
        ("run --resume --out runs/s", "expected the directory of one run, found the directory of a sweep, runs/s"),
        ("run base.yaml --out runs/s", "expected the directory of one run, found the directory of a sweep, runs/s"),
        ("check sweep.yaml", "expected the config of one run, found the config of a sweep"),
        ("sweep base.yaml", "expected the config of a sweep, found the config of one run, base.yaml: `fedrecon run"),
        ("sweep runs/s", "expected the config of a sweep, found the directory of a sweep"),
        ("sweep runs/s/sweep.yaml", "expected the config of a sweep, found the list of cells"),
        ("sweep sweep.yaml --out runs/r", "expected the directory of a sweep, found the directory of one run, runs/r"),
        ("coherence runs/s", "expected the directory of one run, found the directory of a sweep, runs/s"),
    ],
)
def test_another_kind_is_named_with_what_takes_it(place, call, arguments, words):
    before = sorted(place.rglob("*"))
    refused(call(*arguments.split()), words)
    assert sorted(place.rglob("*")) == before


def test_a_path_in_a_command_can_be_copied(place, call):
    (place / "runs" / "r").rename(place / "my run")
    refused(call("table", "my run"), "`fedrecon report 'my run'` shows it")


def test_the_base_of_a_sweep_that_is_one_itself_is_told(place, call):
    (place / "outer.yaml").write_text(yaml.safe_dump({"name": "o", "base": "sweep.yaml", "axes": {"seed": [1]}}))
    refused(call("sweep", "outer.yaml"), "expected the config of one run, found the config of a sweep")

"""The YAML of a sweep, and the kinds of paths that commands take."""

import json
import re

import pytest
import yaml

from fedrecon_core.errors import ConfigError, UsageError
from server.sweep.parameters import as_settings
from server.sweep.paths import Kind, check_out, kind_of
from server.sweep.spec import parse_definition, read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results, write_sweep

pytestmark = pytest.mark.quick


# --- definition -------------------------------------------------------------------------------------------------------


PLAIN = {"name": "s", "base": "base.yaml", "axes": {"recovery": ["mask", "zero"], "seed": [1, 2]}}


def test_lists_of_well_known_parameters_set_their_keys_and_the_seed_is_last():
    axes = {"seed": {"first": 3, "count": 2}, "data": ["polydigits"], "strategy": ["fedavg", "fedopt"]}
    found = parse_definition({**PLAIN, "axes": axes})
    assert found.labels == {"data": ["polydigits"], "strategy": ["fedavg", "fedopt"], "seed": ["3", "4"]}
    assert [value.settings for parameter in found.axes for value in parameter.values] == [
        ("data.name=polydigits",),
        ("strategy.name=fedavg",),
        ("strategy.name=fedopt",),
        ("seed=3",),
        ("seed=4",),
    ]


def test_values_of_a_mapping_set_any_keys_and_may_have_a_base():
    axes = {"rate": {0.5: {"missing.train.rate": 0.5, "base": "other.yaml"}, "none": {"base": "third.yaml"}}}
    values = parse_definition({"name": "s", "axes": axes}).axes[0].values
    assert [(value.label, value.base, value.settings) for value in values] == [
        ("0.5", "other.yaml", ("missing.train.rate=0.5",)),
        ("none", "third.yaml", ()),
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"a.b": {"c": 1}}, ("a.b={c: 1}",)),  # dotted: whole, as `--set` does
        ({"a": {"b": {"c": 1, "d": [1, 2]}}}, ("a.b.c=1", "a.b.d=[1, 2]")),  # nested: key by key
        ({"a": {"b": {1: 0.5}}}, ("a.b={1: 0.5}",)),  # no key that a dotted path could name
        ({"a": {"b": {"x.y": 0.5}}}, ("a.b={x.y: 0.5}",)),
        ({"a": {}}, ("a={}",)),
        ({"a": None, "b": True, "c": "1e-3", "d": 0.00001}, ("a=null", "b=true", "c=1e-3", "d=1.0e-05")),
    ],
)
def test_settings_as_key_value_strings(settings, words):
    assert as_settings(settings) == words


def test_a_restriction_keeps_trials_by_their_labels():
    only = [{"where": {"recovery": "zero"}, "keep": {"seed": 1}}, {"keep": {"seed": [1, 2]}}]
    first, second = parse_definition({**PLAIN, "only": only}).only
    assert first.keeps({"recovery": "zero", "seed": "1"})
    assert not first.keeps({"recovery": "zero", "seed": "2"})
    assert first.keeps({"recovery": "mask", "seed": "2"})
    assert second.keeps({"recovery": "zero", "seed": "2"})


def test_a_table_is_read():
    table = {"rows": ["recovery"], "columns": [], "metrics": ["uar", "loss"], "baseline": {"recovery": "mask"}}
    assert parse_definition({**PLAIN, "table": table}).table.model_dump(exclude_unset=True) == {
        "rows": ("recovery",),
        "columns": (),
        "metrics": ("uar", "loss"),
        "baseline": {"recovery": "mask"},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axs": {}}, r"axs: unknown key \(found \{\}\)\. Did you mean 'axes'\?"),
        ({"name": "a b"}, r"name: expected a text that matches .*, found 'a b'"),
        ({"base": None}, r"base: this key is required unless every value of one axis has its own; no value has one"),
        (
            {"base": None, "axes": {"data": {"a": {"base": "x"}, "b": {"rounds": 1}}}},
            r"base: this key is required .*; the value 'b' of data has none",
        ),
        (
            {"axes": {"data": {"a": {"base": "x"}}, "rate": {"a": {"base": "x"}}}},
            r"axes: only one axis can choose the base, found data and rate",
        ),
        ({"axes": {}}, r"axes: expected a mapping axis -> values, found \{\}"),
        ({"axes": {"recovery": []}}, r"axes\.recovery: expected at least one value, found none"),
        ({"axes": {"recovery": ["mask", "mask"]}}, r"axes\.recovery: the value 'mask' occurs twice"),
        ({"axes": {"recovery": [{"name": "mask"}]}}, r"axes\.recovery: expected names, found \{'name': 'mask'\}"),
        ({"axes": {"recovery": "mask"}}, r"axes\.recovery: expected a list of values or a mapping .*, found 'mask'"),
        ({"axes": {"rate": [0.1, 0.5]}}, r"axes\.rate: expected a mapping label -> settings, found a list"),
        ({"axes": {"rate": {"a": 3}}}, r"axes\.rate\.a: expected a mapping of keys of a run's config, found 3"),
        ({"axes": {"rate": {"a,b": {}}}}, r"axes\.rate: expected labels without ',' and '=', found 'a,b'"),
        ({"axes": {"rate": {True: {}}}}, r"axes\.rate: expected labels, found True; put it in quotes"),
        ({"axes": {"rate": {"a": {"base": 3}}}}, r"axes\.rate\.a\.base: expected the path .*, found 3"),
        ({"axes": {"a b": {}}}, r"axes: expected names of axes .*, found 'a b'"),
        ({"axes": {"seed": [1, -1]}}, r"axes\.seed: expected a whole number of at least 0, found -1"),
        ({"axes": {"seed": 3}}, r"axes\.seed: expected a list, \[3\] for this seed, or {count: 3} for"),
        ({"axes": {"seed": "all"}}, r"axes\.seed: expected a list of seeds, or {first: 1, count: 5}, found 'all'"),
        ({"axes": {"seed": {"frst": 1}}}, r"axes\.seed\.frst: unknown key\. Known keys: first, count"),
        ({"axes": {"seed": {"first": 1}}}, r"axes\.seed\.count: this key is required and was not found"),
        ({"axes": {"seed": {"count": 0}}}, r"axes\.seed\.count: expected a whole number of at least 1, found 0"),
        ({"set": ["rounds=2"]}, r"set: expected a mapping of keys of a run's config, found \['rounds=2'\]"),
        ({"set": {3: 2}}, r"set: expected keys of a run's config, found 3"),
        ({"only": [{"where": {"recovery": "mask"}}]}, r"only\.0\.keep: this key is required and was not found"),
        ({"only": [{"keep": {"recovry": "mask"}}]}, r"only\.0\.keep: unknown axis 'recovry'; .* 'recovery'\?"),
        ({"only": [{"keep": {"recovery": "maks"}}]}, r"only\.0\.keep\.recovery: unknown value 'maks'; .* 'mask'\?"),
        ({"base": ""}, r"base: expected a text that matches .*, found ''"),
        ({"axes": {"data": {"a": {"base": ""}}}}, r"axes\.data\.a\.base: expected the path of a run config, found ''"),
        ({"only": [{"keep": {}}]}, r"only\.0\.keep: expected at least 1 entry, found \{\}"),
        ({"table": {"metrics": ["urr"]}}, r"table\.metrics: unknown metric 'urr'; known: .*, loss\. .* 'uar'\?"),
        ({"only": [{"keep": ["mask"]}]}, r"only\.0\.keep: expected a mapping axis -> values, found \['mask'\]"),
        ({"table": {"rows": ["rate"]}}, r"table\.rows: unknown axis 'rate'; known: recovery, seed"),
        ({"table": {"columns": ["seed"]}}, r"table\.columns: expected axes to compare, found seed: "),
        ({"table": {"bounds": {"recovery": "x"}}}, r"table\.bounds\.recovery: unknown value 'x'; known: "),
        (
            {"table": {"rows": "recovery", "columns": ["recovery"]}},
            r"table\.columns: the axis 'recovery' occurs twice in the table",
        ),
        (
            {"table": {"baseline": {"recovery": "x"}}},
            r"table\.baseline\.recovery: unknown value 'x'; known: mask, zero",
        ),
        (
            {"table": {"baseline": {"recovery": ["mask", "zero"]}}},
            r"table\.baseline\.recovery: expected one value, found \['mask', 'zero'\]",
        ),
        ({"table": {"metric": ["uar"]}}, r"table\.metric: unknown key .* 'metrics'\?"),
    ],
)
def test_a_fault_is_one_line_that_names_the_key(change, words):
    raw = {key: value for key, value in {**PLAIN, **change}.items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        parse_definition(raw)
    assert re.match(words, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        read_definition(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "recovery,metric,value,source\nmask,uar,50,Müller\n".encode("latin-1"),
            "published.csv is not a valid CSV file: 'utf-8' codec",
        ),
        (b"recovry,metric,value\nmask,uar,50\n", "found 'recovry'. Did you mean 'recovery'?"),
        (b"recovery,metric,value\nmask,uar,many\n", "published.csv, line 2: expected a number, found 'many'"),
        (None, "expected a CSV of published values, relative to the sweep's file, found no file"),
    ],
)
def test_published_values_are_read_before_anything_runs(tmp_path, monkeypatch, capsys, content, words):
    path = write_sweep(tmp_path, table={"reference": "published.csv"})
    if content is not None:
        (tmp_path / "published.csv").write_bytes(content)
    refused(caller(monkeypatch, capsys)("sweep", path, "--out", tmp_path / "out"), "fedrecon: table.reference: ", words)
    assert not (tmp_path / "out").exists()


def test_the_path_of_published_values_is_absolute(tmp_path):
    path = write_sweep(tmp_path, table={"reference": "published.csv"})
    (tmp_path / "published.csv").write_text("recovery,metric,value\nmask,uar,50\n")
    table = read_definition(path).table
    assert table is not None and table.reference == str(tmp_path / "published.csv")


# --- paths ------------------------------------------------------------------------------------------------------------


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

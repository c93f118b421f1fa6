"""The YAML of a sweep: its meaning, and one clear line for each fault."""

import re

import pytest

from fedrecon_core.errors import ConfigError
from server.sweep.parameters import as_settings
from server.sweep.spec import parse_definition, read_definition
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import write_sweep

pytestmark = pytest.mark.quick

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

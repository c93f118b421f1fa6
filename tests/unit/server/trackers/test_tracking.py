"""The section ``tracking``: what it turns on and off, what is wrong with it, and what it does not change."""

import json
import math

import pytest
import yaml

from fedrecon_core.config import parse
from fedrecon_core.config.loading import override
from fedrecon_core.errors import ConfigError, UsageError
from fedrecon_core.registry import discover
from fedrecon_core.types import DatasetSpec
from server import app
from server.runs.directory import RunDirectory
from server.runs.setup import check_run, create_run, open_run, resume_run
from server.runs.tracking import Trackers
from server.sweep.spec import read_definition
from server.sweep.trials import build_trials, config_sha256
from server.trackers.base import TRACKER_PACKAGES, TRACKERS, Tracker
from server.trackers.choice import check_keys, missing_of, trackers_of
from server.trackers.numbers import flat, numbers_of_result, numbers_of_round
from strategies.federation import Federation
from tests.helpers import runs
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import write_sweep
from tests.helpers.toy import toy_settings

pytestmark = pytest.mark.quick
discover(TRACKER_PACKAGES)
OFF = {"tensorboard": None}


def config_of(tracking=None, **changes):
    return parse(toy_settings(**({} if tracking is None else {"tracking": tracking}), **changes))


@pytest.fixture
def absent():
    """A tracker whose package nobody has."""

    @TRACKERS.register("absent")
    class Absent(Tracker):
        package, pip = "fedrecon_has_no_such_package", "such-a-package"
        start = metrics = finish = close = None

    Absent.__abstractmethods__ = frozenset()
    yield "absent"
    TRACKERS.forget("absent")


# --- on and off -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        (None, {"tensorboard": "auto"}),
        ({}, {"tensorboard": "auto"}),
        ({"tensorboard": None}, OFF),
        ({"tensorboard": False}, OFF),
        ({"tensorboard": True}, {"tensorboard": {}}),
        ({"wandb": {"project": "x"}}, {"tensorboard": "auto", "wandb": {"project": "x"}}),
        ({"wandb": True, "tensorboard": None}, {"tensorboard": None, "wandb": {}}),
        ({"mlflow": "auto"}, {"tensorboard": "auto", "mlflow": "auto"}),
    ],
)
def test_what_is_written_stands_over_the_default_and_is_read_back(written, resolved):
    config = config_of(written)
    assert config.tracking == resolved
    assert parse(yaml.safe_load(config.to_yaml())) == config


def test_a_key_on_the_command_line_asks_for_its_tracker_and_turns_off_no_other():
    raw = override(toy_settings(), ["tracking.wandb.project=x", "tracking.mlflow=true"])
    assert parse(raw).tracking == {"tensorboard": "auto", "wandb": {"project": "x"}, "mlflow": {}}
    assert parse(override(raw, ["tracking.wandb=null"])).tracking["wandb"] is None


@pytest.mark.parametrize("switch", ["auto", True, None, {"entity": "a-team"}])
def test_a_key_may_be_set_of_a_tracker_however_it_is_switched_in_the_config(switch):
    raw = override(toy_settings(tracking={"wandb": switch}), ["tracking.wandb.project=x"])
    own = switch if isinstance(switch, dict) else {}
    assert parse(raw).tracking["wandb"] == {**own, "project": "x"}


def test_a_tracker_that_is_off_is_not_made():
    assert trackers_of(config_of(OFF)) == {}


def test_auto_is_on_where_the_package_is_and_off_with_a_line_where_it_is_not(absent):
    config = config_of({"tensorboard": None, absent: "auto"})
    assert trackers_of(config) == {}
    [line] = missing_of(config)
    assert line.startswith("tracking.absent is off: the package fedrecon_has_no_such_package is not installed")
    assert missing_of(config_of(OFF)) == []


def test_a_tracker_that_was_asked_for_and_is_not_installed_is_refused_with_the_line_that_installs_it(absent):
    with pytest.raises(ConfigError, match=r"tracking\.absent: expected the package .*pip install such-a-package, or"):
        check_run(config_of({absent: {}}))
    check_keys(config_of({absent: {}}))  # a deployment's ServerApp runs elsewhere


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tracking", "words"),
    [
        ("wandb", ["tracking: expected a mapping tracker -> keys, found 'wandb'"]),
        (None, ["tracking: expected a mapping tracker -> keys, found None"]),
        ({"wandb": 3}, ["tracking.wandb: expected a mapping of keys, true", "found 3"]),
        ({"wandb": ["a"]}, ["tracking.wandb: expected a mapping of keys", "['a']"]),
        ({"wandb": "on"}, ["tracking.wandb: expected", "'on'"]),
    ],
)
def test_what_is_no_section_is_a_fault_of_the_config(tracking, words):
    with pytest.raises(ConfigError) as caught:
        parse(toy_settings(tracking=tracking))
    assert all(word in str(caught.value) for word in words), caught.value


FAULTS = [
    ("tracking.wandbb.project=x", ["tracking: unknown tracker 'wandbb'", "tensorboard", "'wandb'"]),
    ("tracking.mflow=null", ["tracking: unknown tracker 'mflow'", "'mlflow'"]),
    ("tracking.wandb.projekt=x", ["tracking.wandb.projekt: unknown key", "'project'"]),
    ("tracking.wandb.mode=on", ["tracking.wandb.mode: expected 'offline'", "'online'"]),
    ("tracking.tensorboard.folder=x", ["tracking.tensorboard.folder: unknown key"]),
    ("tracking.mlflow.uri=mlruns", ["tracking.mlflow.uri: expected an address", "'mlruns'", "relative"]),
    ("tracking.mlflow.uri=sqlite:///here.db", ["tracking.mlflow.uri: expected an address", "relative"]),
    (
        "tracking.mlflow.uri=http://me:secret@host",
        ["tracking.mlflow.uri", "without a user or password", "MLFLOW_TRACKING_"],
    ),
    ("tracking.mlflow.uri=https://secret@host", ["tracking.mlflow.uri", "without a user or password"]),
]


@pytest.mark.parametrize(("setting", "words"), FAULTS)
def test_a_fault_is_one_line_before_anything_is_written(setting, words, monkeypatch, capsys, tmp_path):
    command, source = caller(monkeypatch, capsys), runs.write(tmp_path, runs.settings())
    for line in (["run", source, "--out", tmp_path / "run"], ["check", source]):
        outcome = command(*line, "--set", setting)
        refused(outcome, *words)
        assert "secret" not in outcome[2]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "sqlite:////a/b.db", "/a/b", "file:///a", "databricks://profile", "mysql://me@h/d"]
)
def test_an_address_that_means_the_same_everywhere_is_taken(uri):
    check_keys(config_of({"mlflow": {"uri": uri}}))


def test_a_deployment_is_refused_before_it_is_submitted(monkeypatch, capsys, tmp_path):
    raw = {**runs.settings(), "data": {"name": "sites", "root": str(tmp_path)}, "missing": {}}
    line = ["run", runs.write(tmp_path, raw), "--engine", "deployment", "--set", "tracking.wandb.projekt=x"]
    refused(caller(monkeypatch, capsys)(*line), "tracking.wandb.projekt: unknown key")


def test_the_server_app_checks_anew_before_it_speaks_with_anybody(absent, tmp_path):
    """Where it runs in a deployment the package may be missing; there is no grid here to speak through."""
    directory = create_run(runs.write(tmp_path, runs.settings()), out=tmp_path / "run").directory
    raw = yaml.safe_load(directory.config.read_text())
    directory.config.write_text(yaml.safe_dump({**raw, "tracking": {absent: {}}}))
    with pytest.raises(ConfigError, match=r"tracking\.absent: expected the package"):
        app.run(None, open_run(directory.path))
    failed = json.loads(directory.result.read_text())
    assert (failed["status"], failed["exit_code"]) == ("failed", 2)


# --- what it does not change ------------------------------------------------------------------------------------------


def test_a_resumption_may_change_it(tmp_path):
    directory = create_run(runs.write(tmp_path, runs.settings()), out=tmp_path / "run").directory
    assert resume_run(directory.path, ["tracking.tensorboard=null"]).config.tracking == OFF
    assert yaml.safe_load(directory.config.read_text())["tracking"] == OFF
    with pytest.raises(ConfigError, match=r"unknown tracker 'wanbd'"):
        resume_run(directory.path, ["tracking.wanbd=true"])
    assert yaml.safe_load(directory.config.read_text())["tracking"] == OFF
    with pytest.raises(UsageError, match=r"only these may be set: engine\.\*, sites\.min, .*, tracking\.\*\)"):
        resume_run(directory.path, ["trackings=null"])


def test_a_run_that_was_begun_without_the_key_is_resumed(tmp_path):
    directory = create_run(runs.write(tmp_path, runs.settings()), out=tmp_path / "run").directory
    raw = yaml.safe_load(directory.config.read_text())
    del raw["tracking"]
    directory.config.write_text(yaml.safe_dump(raw))
    assert resume_run(directory.path).config.tracking == {"tensorboard": "auto"}


def test_it_is_no_part_of_what_a_run_is_and_goes_to_no_site():
    plain, expected = config_of(OFF), config_of({"wandb": {"entity": "a-team"}})
    assert config_sha256(plain) == config_sha256(expected)
    nothing = DatasetSpec(name="", modalities=(), classes=())
    sent = [Federation(config, nothing, "", {}, {}, {}).config_json for config in (plain, expected)]
    assert sent[0] == sent[1]
    assert "tracking" not in json.loads(sent[0])


def test_trials_of_a_sweep_are_untracked_unless_they_are_asked_for(tmp_path, absent):
    def tracking(*settings):
        definition = read_definition(write_sweep(tmp_path, toy_settings()))
        return [trial.config.tracking for trial in build_trials(definition, tmp_path, settings)]

    assert tracking() == [OFF] * 4
    assert tracking("tracking.tensorboard=true") == [{"tensorboard": {}}] * 4
    with pytest.raises(ConfigError, match=r"tracking\.absent: expected the package"):
        tracking("tracking.absent=true")
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'"):
        tracking("tracking.tensorbord=true")


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_every_number_of_a_round_has_its_split_and_sites_are_summed():
    train = {"round": 4, "split": "train", "n": 9, "loss": math.nan, "train_seconds": 2.5}
    validation = {"round": 4, "split": "validation", "uar": 0.5, "failures": {"site-0001": "why"}, "sites": 3}
    sites = [
        {"round": 4, "site": "a", "attempt": 1, "status": "failed", "samples": 4, "bytes_down": 7, "reason": "x"},
        {"round": 4, "site": "b", "status": "ok", "bytes_down": 1, "bytes_up": 2, "task_seconds": 0.5, "counts": {}},
        {"round": 4, "site": "c", "status": "ok", "bytes_down": 1, "bytes_up": 3, "task_seconds": 0.25},
    ]
    found = numbers_of_round([train, validation, {"round": 2, "split": "test", "uar": 1.0}], sites)
    assert math.isnan(found.pop("train/loss"))
    assert found == {
        "train/n": 9,
        "train/train_seconds": 2.5,
        "validation/uar": 0.5,
        "validation/sites": 3,
        "sites/answered": 2,
        "sites/failed": 1,
        "sites/bytes_down": 9,
        "sites/bytes_up": 5,
        "sites/task_seconds": 0.75,
    }


def test_a_result_has_test_scores_and_totals_and_a_failed_one_neither():
    result = {"status": "completed", "rounds": 3, "test": {"uar": 0.5, "n": 9}, "bytes_up": 4, "model_sha256": "ab"}
    assert numbers_of_result(result) == {"test/uar": 0.5, "test/n": 9, "total/bytes_up": 4}
    assert numbers_of_result({"status": "failed", "error": "x", "rounds": 2}) == {}


def test_keys_of_a_config_are_flattened_and_what_is_empty_is_a_value():
    assert flat({"a": {"b": {"c": 1}, "d": []}, "e": {}, "f": None}) == {"a.b.c": 1, "a.d": [], "e": {}, "f": None}


# --- resumed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tensorboard": 3}', '{"tensorboard": {"round": "x", "memory": {}}}'])
def test_a_memory_that_cannot_be_read_is_told_and_stops_no_run(text, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    (tmp_path / "tracking.json").write_text(text)
    trackers = Trackers(config_of(), RunDirectory(tmp_path))
    trackers.choose()
    trackers.start(0)
    trackers.finish({"status": "interrupted"})
    assert capsys.readouterr().out.startswith("tracking.json cannot be read, so trackers start again: ")
    assert json.loads((tmp_path / "tracking.json").read_text())["tensorboard"]["round"] == 0

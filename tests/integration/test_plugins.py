"""A plugin package that pip installed, used by name through whole runs in process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedrecon_core.errors import ConfigError
from fedrecon_core.inference import load_model
from server.runs.setup import resume_run
from tests.helpers import plugin, runs
from tests.helpers.command import caller

ROOT = Path(__file__).resolve().parents[2]
DIGITS = {"name": "polydigits", "modalities": 2, "tuples": 1}
PROGRAM = [sys.executable, "-m", "server.cli"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the installed plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    return plugin.install(plugin.write_package(folder / "source"), folder / "installed")


@pytest.fixture
def plugged(installed, monkeypatch):
    """This process has the plugin on its search path."""
    monkeypatch.syspath_prepend(str(installed))
    with plugin.forgotten(plugin.NAME):
        yield


def settings(**changes):
    found = runs.settings(rounds=2, recovery={"name": "ramp", "slope": 0.25}, plugins=[plugin.NAME])
    return {**found, "evaluate": {"select": "worst_recall"}, **changes}


def test_a_run_uses_recovery_and_metric_by_name(plugged, tmp_path):
    directory = runs.run(tmp_path, settings())
    result, manifest = runs.result(directory), json.loads((directory / "manifest.json").read_text())
    assert result["status"] == "completed"
    assert 0 <= result["test"]["worst_recall"] <= result["test"]["uar"]
    assert all("worst_recall" in line for line in runs.lines(directory, "metrics.jsonl") if line["split"] != "train")
    assert yaml.safe_load((directory / "config.yaml").read_text())["plugins"] == [plugin.NAME]
    assert manifest["versions"]["fedrecon-ramp"] == plugin.VERSION
    without = runs.run(tmp_path / "without", settings(recovery="zero", plugins=[], evaluate={}))
    assert manifest["code_sha256"] != json.loads((without / "manifest.json").read_text())["code_sha256"]
    assert "worst_recall" not in runs.result(without)["test"]
    assert load_model(directory).recovery.params.slope == 0.25


def test_processes_of_sites_use_it_too_and_the_command_says_what_is_missing_without_it(
    installed, tmp_path, monkeypatch
):
    path = runs.write(tmp_path, settings(data=DIGITS))
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"}

    def run(*arguments, **changes):
        options = {"env": {**environment, **changes}, "cwd": tmp_path, "capture_output": True, "text": True}
        return subprocess.run([*PROGRAM, "run", *map(str, arguments)], **options, check=False)

    hashes = []
    for workers in (1, 2):
        done = run(path, "--set", f"engine.workers={workers}", "--out", tmp_path / f"run-{workers}")
        assert done.returncode == 0, done.stderr
        hashes.append(runs.result(tmp_path / f"run-{workers}")["parameters_sha256"])
    assert hashes[0] == hashes[1]
    done = run(path, "--out", tmp_path / "third", PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert done.stderr.startswith(f"fedrecon: plugins: {plugin.NAME} is not installed for {sys.executable}; install ")
    assert not (tmp_path / "third").exists()


def test_a_run_cannot_be_resumed_without_its_plugin(plugged, tmp_path, monkeypatch):
    directory = runs.run(tmp_path, settings(rounds=1))
    (directory / "result.json").write_text(json.dumps({"status": "failed"}))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=f"plugins: {plugin.NAME} is not installed"):
        resume_run(directory)


def test_a_sweep_over_recoveries_shows_the_metric_of_the_plugin(plugged, tmp_path, monkeypatch, capsys):
    runs.write(tmp_path, settings(rounds=1, data=DIGITS))
    sweep = {
        "name": "plugged",
        "base": "config-in.yaml",
        "axes": {"recovery": ["mask", "ramp"]},
        "table": {"metrics": ["worst_recall", "uar"], "baseline": {"recovery": "mask"}},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    call = caller(monkeypatch, capsys)
    code, out, err = call("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out", "--workers", "1")
    assert code == 0, out + err
    code, out, err = call("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out", "--workers", "1")
    assert code == 0 and "2 complete" in out, out + err
    code, out, err = call("table", tmp_path / "out")
    assert code == 0, err
    assert "worst_recall" in out.lower().replace("-", "_").replace(" ", "_")
    shutil.rmtree(tmp_path / "out")

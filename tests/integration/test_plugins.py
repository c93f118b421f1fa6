"""Plugins and own metrics through whole runs, and programs that import only what they need."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.errors import ConfigError
from fedrecon_core.inference import load_model
from fedrecon_core.metrics.accuracy import Accuracy
from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.registry import METRICS
from server.report.run import final_table, render_run
from server.runs.record import read_run
from server.runs.setup import resume_run
from tests.helpers import plugin, runs
from tests.helpers.contract_support import restored
from tests.helpers.folders import content
from tests.helpers.runs import caller
from tests.helpers.toy import everything, save_toy_model, tiny_dataset, toy_settings, toy_site

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


def test_site_processes_use_the_plugin_and_its_absence_is_reported(installed, tmp_path, monkeypatch):
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


def test_resume_fails_without_the_plugin_of_the_run(plugged, tmp_path, monkeypatch):
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


# --- a metric of the user's own ---------------------------------------------------------------------------------------


class ErrorRate(Metric):
    """The share of wrong predictions."""

    title, explanation = "Error rate", "share of wrong predictions"
    higher_is_better, percentage = False, False

    @staticmethod
    def compute(counts: Counts) -> float:
        return 1 - Accuracy.compute(counts)


def test_own_metric_chooses_the_best_round_and_is_shown(tmp_path):
    with restored(METRICS):
        METRICS.register("error_rate")(ErrorRate)
        evaluate = {"select": "error_rate"}
        task = {"epochs": 1, "batch": 8, "lr": 0.02}
        run = runs.run(tmp_path, toy_settings("mask", evaluate=evaluate, rounds=5, local={"task": task}))
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        rates = {line["round"]: line["error_rate"] for line in lines if line["split"] == "validation"}
        assert len(set(rates.values())) > 1 and result["best_round"] == min(rates, key=lambda turn: rates[turn])
        console = Console(width=120, record=True)
        console.print(final_table(read_run(run)))
        text = console.export_text()
        assert f"{result['test']['error_rate']:.3f}" in next(line for line in text.splitlines() if "error rate" in line)
        page = render_run(read_run(run))
        assert "Test Error rate" in page and "share of wrong predictions" in page


# --- processes that load as little as possible ------------------------------------------------------------------------

PREDICT = """
import torch; torch.set_num_threads(1)
import pickle, sys
from pathlib import Path
from fedrecon_core.inference import load_model

model, data, out = (Path(word) for word in sys.argv[1:])
logits = load_model(model).logits(pickle.loads(data.read_bytes()))
out.write_bytes(pickle.dumps(logits))
assert not {"strategies", "server", "client", "flwr", "tests"} & set(sys.modules), "more than the core is loaded"
"""


def python(program: str, *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_model_predicts_with_the_core_alone(tmp_path):
    model, data, out = save_toy_model(tmp_path / "model"), tmp_path / "data", tmp_path / "logits"
    present = everything(48)
    present[::2, 0] = present[::3, 1] = False
    site = toy_site(tiny_dataset(), present)
    data.write_bytes(pickle.dumps(site))
    done = python(PREDICT, model, data, out)
    assert done.returncode == 0, done.stderr
    assert torch.equal(pickle.loads(out.read_bytes()), load_model(model).logits(site))


def test_a_site_folder_opens_without_a_parquet_reader(tmp_path):
    write_folder(tmp_path / "north", content(tiny_dataset(12, 8)))
    done = python(
        "import sys; from pathlib import Path; from fedrecon_core.data.site_folder.opening import open_folder;"
        "open_folder(Path(sys.argv[1])); assert not {'pyarrow', 'pandas'} & set(sys.modules)",
        tmp_path / "north",
    )
    assert done.returncode == 0, done.stderr


def test_the_partitioners_are_not_imported_before_they_are_used():
    done = python(
        "import sys; from fedrecon_core.registry import CORE_PACKAGES, discover; discover(CORE_PACKAGES);"
        "assert not {'flwr_datasets', 'datasets', 'sklearn'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_installed_command_reports_an_error_in_one_line_with_its_exit_code(tmp_path):
    done = python("from server.cli import main; main()", "run", "missing.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "fedrecon: config file missing.yaml does not exist; give the path of a YAML file\n"

"""Sites with their own folders, through the real apps in one process: the same bytes as a simulation over the folders,
sites that come late, leave and come back, and what a person reads when something is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedrecon_core.errors import ConfigError, RunError
from server.checkpoint import newest_round
from server.cli import application
from server.engines.inprocess import InProcess
from server.prepare import prepare
from tests.toys.deployed import deploy, node_configs
from tests.toys.runs import job_of, settings, write

SITES = ("site-0000", "site-0001", "site-0002")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Three site folders of the toy data set, at which half of the modalities are missing, and federation.yaml."""
    base = tmp_path_factory.mktemp("split")
    config = write(base, settings())
    done = CliRunner().invoke(
        application, ["data", "split", str(config), "--out", str(base / "sites")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return base / "sites"


def prepared(folders: Path, out: Path, *changes: str):
    changes = ("engine.name=deployment", "sites.wait=1", "sites.min=1", *changes)
    return prepare(folders / "federation.yaml", changes, out=out)


def result(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text())


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "sites.jsonl").read_text().splitlines()]


def test_a_deployment_reaches_the_parameters_of_the_simulation_that_was_split(folders, tmp_path, capsys):
    torch.set_num_threads(1)
    simulated = prepare(folders.parent / "config-in.yaml", out=tmp_path / "simulated")
    InProcess().run(job_of(simulated))
    over_folders = prepare(folders / "federation.yaml", out=tmp_path / "folders")
    InProcess().run(job_of(over_folders))
    deployed = prepared(folders, tmp_path / "deployed")
    deploy(deployed, node_configs(folders, tmp_path / "state"))
    hashes = {result(tmp_path / name)["parameters_sha256"] for name in ("simulated", "folders", "deployed")}
    assert len(hashes) == 1
    assert result(tmp_path / "folders")["test"]["uar"] == result(tmp_path / "deployed")["test"]["uar"]
    said = capsys.readouterr().out
    assert f"run directory {tmp_path / 'deployed'}" in said
    manifest = json.loads((tmp_path / "deployed" / "manifest.json").read_text())
    assert [site["name"] for site in manifest["sites"]] == list(SITES)
    assert all("classes" not in site for site in manifest["sites"])  # how many of each class stays at the site


def test_a_site_joins_late_leaves_and_comes_back(folders, tmp_path, capsys):
    def connected(names: list[str]) -> list[str]:
        there = [names[:2], names, names[1:], names]
        return there[min(newest_round(tmp_path / "run" / "checkpoints"), 3)]

    deploy(prepared(folders, tmp_path / "run", "rounds=4"), node_configs(folders, tmp_path / "state"), connected)
    took_part = {
        round_: [line["site"] for line in lines(tmp_path / "run") if line["round"] == round_] for round_ in range(1, 5)
    }
    assert took_part == {1: list(SITES[:2]), 2: list(SITES), 3: list(SITES[1:]), 4: list(SITES)}
    said = capsys.readouterr().out
    assert "round 2: site site-0002 joined" in said
    assert "round 3: site site-0000 has left; it may come back" in said
    assert "round 4: site site-0000 joined" in said
    assert result(tmp_path / "run")["status"] == "completed"


def test_too_few_sites_end_the_run_in_words(folders, tmp_path):
    run = prepared(folders, tmp_path / "run", "sites.min=3")
    with pytest.raises(
        RunError, match=r"round 0: 2 of at least 3 sites connected within 1 s .*: site-0000, site-0001;"
    ):
        deploy(run, node_configs(folders, tmp_path / "state"), lambda names: names[:2])
    assert result(tmp_path / "run")["status"] == "failed"


def test_a_failing_site_is_named_with_its_reason_and_the_round_goes_on(folders, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folders, copy)
    (copy / "site-0001" / "arrays" / "picture.npy").touch()  # as a copy without times: it has to be checked again
    configs = node_configs(folders, tmp_path / "state")
    configs["site-0001"]["data"] = str(copy / "site-0001")
    deploy(prepared(folders, tmp_path / "run"), configs)
    said = " ".join(capsys.readouterr().out.split())
    assert "a node is connected and cannot take part" in said
    assert "fedrecon data check" in said
    assert {line["site"] for line in lines(tmp_path / "run")} == {"site-0000", "site-0002"}


def test_a_node_without_data_is_refused_with_a_pointer(folders, tmp_path):
    configs = node_configs(folders, tmp_path / "state")
    del configs["site-0000"]["data"]
    with pytest.raises(RunError, match=r"node config of site site-0000: expected data=PATH.*data split"):
        deploy(prepared(folders, tmp_path / "run", "sites.min=3"), configs)


def test_a_simulation_does_not_run_on_sites_with_their_own_data(folders, tmp_path):
    run = prepare(folders.parent / "config-in.yaml", out=tmp_path / "run")
    with pytest.raises(RunError, match=r"site site-0000 has data of its own.*--engine deployment"):
        deploy(run, node_configs(folders, tmp_path / "state"))


def test_a_bound_that_reads_absent_data_is_refused(folders, tmp_path):
    run = prepared(folders, tmp_path / "run", "recovery.name=oracle")
    with pytest.raises(ConfigError, match=r"only a simulation has"):
        deploy(run, node_configs(folders, tmp_path / "state"))


def test_a_deployment_over_data_that_only_the_server_has_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"data.name: expected sites"):
        prepare(write(tmp_path, settings(missing={}, engine={"name": "deployment"})), out=tmp_path / "run")

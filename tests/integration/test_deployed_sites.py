"""Sites with their own folders, through the real apps in one process, and the descriptions that sites send in round 0.

A deployment gives the same bytes as a simulation over the same folders. Sites join late, leave and come back, and every
fault is reported by a clear message.
"""

import hashlib
import json
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import client.simulated
import server.federation.registration
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.data.statistics import Sums
from fedrecon_core.errors import ConfigError, RunError
from fedrecon_core.local import evaluate
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.federation.registration import ASKED
from server.runs.directory import newest_round
from server.runs.setup import create_run, resume_run
from server.training.rounds import Rounds
from strategies.messages import SiteInfo
from tests.helpers.folders import content, write_toy_sites
from tests.helpers.runs import (
    deploy,
    forget,
    lines,
    node_configs,
    outcome,
    result,
    resume,
    run,
    settings,
    split_sites,
    write,
)
from tests.helpers.toy import tiny_dataset

SITES = ("site-0000", "site-0001", "site-0002")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Three site folders of the toy data set, at which half of the modalities are missing, and federation.yaml."""
    return split_sites(write(tmp_path_factory.mktemp("split"), settings()))


def prepared(folders: Path, out: Path, *changes: str):
    changes = ("engine.name=deployment", "sites.wait=1", "sites.min=1", *changes)
    return create_run(folders / "federation.yaml", changes, out=out)


def metrics(directory: Path) -> list[dict]:
    return lines(directory, "metrics.jsonl")


def test_site_without_the_ragged_modality_trains_as_in_the_simulation(tmp_path):
    """If no sample of a site has lengths, batches are formed without them, in a deployment as in a simulation."""
    torch.set_num_threads(1)
    profile = [
        {"sites": 2, "modalities": ["picture", "features", "steps"]},
        {"sites": 1, "modalities": ["picture", "features"]},
    ]
    missing = {split: {"level": "profile", "profile": profile} for split in ("train", "validation", "test")}
    small = {"task": {"batch": 4, "lr": 0.01}}
    raw = settings(recovery={"name": "mask"}, missing=missing, evaluate={"where": "sites"}, local=small, rounds=2)
    config = write(tmp_path, raw)
    split_sites(config)
    simulated = create_run(config, out=tmp_path / "simulated")
    InProcess().run(Job.of(simulated))
    deploy(prepared(tmp_path / "sites", tmp_path / "deployed"), node_configs(tmp_path / "sites", tmp_path / "state"))
    hashes = {result(tmp_path / name)["parameters_sha256"] for name in ("simulated", "deployed")}
    assert len(hashes) == 1


def test_deployment_gives_the_same_parameters_as_the_simulation(folders, tmp_path, capsys):
    torch.set_num_threads(1)
    simulated = create_run(folders.parent / "config-in.yaml", out=tmp_path / "simulated")
    InProcess().run(Job.of(simulated))
    over_folders = create_run(folders / "federation.yaml", out=tmp_path / "folders")
    InProcess().run(Job.of(over_folders))
    deployed = prepared(folders, tmp_path / "deployed")
    deploy(deployed, node_configs(folders, tmp_path / "state"))
    hashes = {result(tmp_path / name)["parameters_sha256"] for name in ("simulated", "folders", "deployed")}
    assert len(hashes) == 1
    assert result(tmp_path / "folders")["test"]["uar"] == result(tmp_path / "deployed")["test"]["uar"]
    output = capsys.readouterr().out
    assert f"run directory {tmp_path / 'deployed'}" in output
    manifest = json.loads((tmp_path / "deployed" / "manifest.json").read_text())
    assert [site["name"] for site in manifest["sites"]] == list(SITES)
    assert all("classes" not in site for site in manifest["sites"])  # class counts stay at the site


def test_site_may_join_late_leave_and_return(folders, tmp_path, capsys):
    def connected(names: list[str]) -> list[str]:
        there = [names[:2], names, names[1:], names]
        return there[min(newest_round(tmp_path / "run" / "checkpoints"), 3)]

    deploy(prepared(folders, tmp_path / "run", "rounds=4"), node_configs(folders, tmp_path / "state"), connected)
    took_part = {
        round_: [line["site"] for line in lines(tmp_path / "run") if line["round"] == round_] for round_ in range(1, 5)
    }
    assert took_part == {1: list(SITES[:2]), 2: list(SITES), 3: list(SITES[1:]), 4: list(SITES)}
    output = capsys.readouterr().out
    assert "round 2: site site-0002 joined" in output
    assert "round 3: site site-0000 has left; it may come back" in output
    assert "round 4: site site-0000 joined" in output
    assert result(tmp_path / "run")["status"] == "completed"


def test_run_fails_with_a_message_if_too_few_sites_connect(folders, tmp_path):
    run = prepared(folders, tmp_path / "run", "sites.min=3")
    with pytest.raises(
        RunError, match=r"round 0: 2 of at least 3 sites connected within 1 s .*: site-0000, site-0001;"
    ):
        deploy(run, node_configs(folders, tmp_path / "state"), lambda names: names[:2])
    assert result(tmp_path / "run")["status"] == "failed"


def test_failing_site_is_reported_and_the_round_continues(folders, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folders, copy)
    (
        copy / "site-0001" / "arrays" / "picture.npy"
    ).touch()  # as after a copy without times: the folder has to be checked again
    configs = node_configs(folders, tmp_path / "state")
    configs["site-0001"]["data"] = str(copy / "site-0001")
    deploy(prepared(folders, tmp_path / "run"), configs)
    output = " ".join(capsys.readouterr().out.split())
    assert "node 3 is connected and cannot take part: " in output
    assert "fedrecon data check" in output
    assert {line["site"] for line in lines(tmp_path / "run")} == {"site-0000", "site-0002"}


def test_node_without_data_is_refused_with_a_hint(folders, tmp_path):
    configs = node_configs(folders, tmp_path / "state")
    del configs["site-0000"]["data"]
    with pytest.raises(RunError, match=r"node config of site site-0000: expected data=PATH.*data split"):
        deploy(prepared(folders, tmp_path / "run", "sites.min=3"), configs)


def test_node_without_a_state_folder_is_refused_before_training(folders, tmp_path):
    configs = node_configs(folders, tmp_path / "state")
    del configs["site-0000"]["state"]
    with pytest.raises(RunError, match=r"round 0: 2 of at least 3 .* of site site-0000: expected state=PATH"):
        deploy(prepared(folders, tmp_path / "run", "sites.min=3"), configs)


def test_simulation_is_refused_on_sites_with_their_own_data(folders, tmp_path):
    run = create_run(folders.parent / "config-in.yaml", out=tmp_path / "run")
    with pytest.raises(RunError, match=r"site site-0000 has its own data.*--engine deployment"):
        deploy(run, node_configs(folders, tmp_path / "state"))


def test_oracle_is_refused_in_a_deployment(folders, tmp_path):
    run = prepared(folders, tmp_path / "run", "recovery.name=oracle")
    with pytest.raises(ConfigError, match=r"exist only in a simulation"):
        deploy(run, node_configs(folders, tmp_path / "state"))


def test_deployment_fails_in_round_0_if_a_prefix_matches_no_group(folders, tmp_path):
    """The groups depend on the modalities of the sites' data."""
    run = prepared(folders, tmp_path / "run", "strategy={name: fedprox, groups: [tsk.]}")
    with pytest.raises(ConfigError, match=r"strategy\.groups: .* found 'tsk\.'\. Did you mean 'task\.'\?"):
        deploy(run, node_configs(folders, tmp_path / "state"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_deployment_over_server_side_data_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"data.name: expected sites"):
        create_run(write(tmp_path, settings(missing={}, engine={"name": "deployment"})), out=tmp_path / "run")


# --- evaluation at the sites -----------------------------------------------------------------------------------------


def fail_evaluation(monkeypatch, *keys: str) -> None:
    """Let evaluation fail for each ``split/site``, site or round in ``keys``."""
    original = evaluate.predict

    def predict(recovery, groups, global_info, data, name):
        if {name, name.split("/")[1], f"{global_info.round}"} & set(keys):
            raise OSError("the [/disk] is missing")
        return original(recovery, groups, global_info, data, name)

    monkeypatch.setattr(evaluate, "predict", predict)


def test_site_that_fails_to_evaluate_is_reported_and_recorded_in_the_metrics(folders, tmp_path, capsys, monkeypatch):
    fail_evaluation(monkeypatch, "site-0001")
    deploy(prepared(folders, tmp_path / "run"), node_configs(folders, tmp_path / "state"))
    output = capsys.readouterr().out
    assert "round 1: evaluation: 2 of 3 sites answered; site-0001: OSError: the [/disk] is missing" in output
    assert "test: 2 of 3 sites answered" in output
    scored = [line for line in metrics(tmp_path / "run") if line["split"] != "train"]
    assert len(scored) == 4
    assert all(line["sites"] == 3 and list(line["failures"]) == ["site-0001"] for line in scored)


def test_round_without_enough_scores_is_kept_unscored(folders, tmp_path, capsys, monkeypatch):
    fail_evaluation(monkeypatch, "2")
    deploy(prepared(folders, tmp_path / "run", "sites.retries=0"), node_configs(folders, tmp_path / "state"))
    assert "round 2: not scored: evaluation on validation: 0 of 3 sites answered" in capsys.readouterr().out
    scored = [line["round"] for line in metrics(tmp_path / "run") if line["split"] == "validation"]
    assert scored == [1, 3]
    assert result(tmp_path / "run")["status"] == "completed"


def test_resume_completes_a_run_whose_only_evaluation_failed(folders, tmp_path, monkeypatch):
    """All rounds are trained when the evaluation fails; they are kept."""
    run = prepared(folders, tmp_path / "run", "sites.retries=0", "evaluate.every=3")
    with monkeypatch.context() as patch:
        fail_evaluation(patch, "3")
        with pytest.raises(RunError, match=r"no round could be scored .*start the sites that have some, and resume"):
            deploy(run, node_configs(folders, tmp_path / "state"))
    deploy(resume_run(tmp_path / "run"), node_configs(folders, tmp_path / "state"))
    assert result(tmp_path / "run")["status"] == "completed"
    splits = [(line["round"], line["split"]) for line in metrics(tmp_path / "run")]
    assert splits == [(1, "train"), (2, "train"), (3, "train"), (3, "validation"), (3, "test")]


def test_run_without_any_test_samples_is_refused_before_training(tmp_path):
    dataset = tiny_dataset(24, 12)
    for number, name in enumerate(("north", "south")):
        members = np.flatnonzero((dataset.split != 2) & (dataset.cluster_ids % 2 == number))
        write_folder(tmp_path / "sites" / name, content(dataset, None, members))
    raw = settings(data={"name": "sites", "root": "sites"}, missing={}, engine={"name": "deployment"})
    run = create_run(write(tmp_path, raw), ["sites.min=2", "sites.wait=5"], out=tmp_path / "run")
    with pytest.raises(RunError, match=r"no connected site has test samples.*evaluate\.where: server"):
        deploy(run, node_configs(tmp_path / "sites", tmp_path / "state"))


# --- data that change under a run ------------------------------------------------------------------------------------


def test_data_changed_during_a_run_are_detected_reported_and_used(tmp_path, capsys):
    """After round 1 the second site gets a modality that it lacked."""
    write_toy_sites(tmp_path / "sites")
    dataset, south = tiny_dataset(24, 12), tmp_path / "sites" / "south"

    def south_hash() -> str:
        return hashlib.sha256((south / "dataset.yaml").read_bytes()).hexdigest()

    before = south_hash()

    def connected(names):
        if newest_round(tmp_path / "run" / "checkpoints") == 1 and before == south_hash():
            shutil.rmtree(south)
            write_folder(south, content(dataset, None, np.flatnonzero(dataset.cluster_ids % 2 == 1)))
        return names

    raw = settings(data={"name": "sites", "root": "sites"}, missing={}, engine={"name": "deployment"}, rounds=4)
    run = create_run(write(tmp_path, raw), ["sites.min=2", "sites.wait=5"], out=tmp_path / "run")
    deploy(run, node_configs(tmp_path / "sites", tmp_path / "state"), connected)
    output = capsys.readouterr().out
    assert "round 2: 1 of 2 sites answered; south: expected generator.features.encoder, " in output
    assert "the site's data have changed since its last description; the server will request a new one" in output
    assert "the data of site south changed since this run began" in output
    groups = {(line["round"], line["site"]): line.get("groups_up", []) for line in lines(tmp_path / "run")}
    assert "generator.features.encoder" not in groups[1, "south"]
    assert groups[2, "south"] == []
    assert "generator.features.encoder" in groups[3, "south"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["sites"][1]["modalities"]["features"] == 1.0


def test_manifest_keeps_every_site_after_a_resume(folders, tmp_path, monkeypatch):
    run = prepared(folders, tmp_path / "run", "rounds=2")
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "_finish", lambda self: (_ for _ in ()).throw(SystemExit(0)))
        with pytest.raises(SystemExit):
            deploy(run, node_configs(folders, tmp_path / "state"))
    assert result(tmp_path / "run")["status"] == "interrupted"
    assert "SuperLink ended" in result(tmp_path / "run")["error"]
    deploy(resume_run(tmp_path / "run"), node_configs(folders, tmp_path / "state"), lambda names: names[:1])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [site["name"] for site in manifest["sites"]] == list(SITES)


# --- sites of a simulation before round 1 -----------------------------------------------------------------------------

COUNT = ASKED + 4
SILENT = "site-0003"


@pytest.fixture
def raw() -> dict[str, Any]:
    """More sites than are asked for a description, with few samples each; z-normalised, so that the sums matter."""
    data = {"name": "toy", "scale": "standard", "train": 4 * COUNT}
    return settings(data=data, sites={"count": COUNT}, rounds=1, recovery={"name": "mask"})


def summed_here(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Sums]]:
    """The sums that the server computes, in order of the sites."""
    original, made = server.federation.registration.site_sums, list[dict[str, Sums]]()

    def site_sums(data: SiteData) -> dict[str, Sums]:
        made.append(original(data))
        return made[-1]

    monkeypatch.setattr(server.federation.registration, "site_sums", site_sums)
    return made


def descriptions_of_sites(monkeypatch: pytest.MonkeyPatch) -> dict[str, SiteInfo]:
    """Site name -> the description that it sent."""
    original, sent = SiteInfo.of, dict[str, SiteInfo]()

    def description(name: str, *arguments: Any) -> SiteInfo:
        sent[name] = original(name, *arguments)
        return sent[name]

    monkeypatch.setattr(SiteInfo, "of", staticmethod(description))
    return sent


def without_description(monkeypatch: pytest.MonkeyPatch, names: Collection[str] = (SILENT,)) -> None:
    """Let the sites ``names`` fail to describe themselves."""
    original = SiteInfo.of

    def description(name: str, *arguments: Any) -> SiteInfo:
        if name in names:
            raise ValueError("no description")
        return original(name, *arguments)

    monkeypatch.setattr(SiteInfo, "of", staticmethod(description))


def test_described_sums_equal_the_sums_of_the_server_bit_for_bit(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, ours = descriptions_of_sites(monkeypatch), summed_here(monkeypatch)
    run(tmp_path, raw)
    assert sorted(sent) == [f"site-{number:04d}" for number in range(ASKED)]
    assert len(ours) == COUNT
    assert ours[:ASKED] == [sent[name].sums for name in sorted(sent)]
    assert any(ours)


def test_resumed_run_sums_only_the_asked_sites_and_keeps_its_statistics(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(run(tmp_path / "whole", {**raw, "rounds": 2}))
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "_validate", stopped_after(1))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", {**raw, "rounds": 2})
    ours = summed_here(monkeypatch)
    ended = outcome(resume(tmp_path / "cut" / "run"))
    assert len(ours) == ASKED
    assert ended["result"].pop("wire_bytes") > whole["result"].pop("wire_bytes")  # descriptions were sent twice
    assert ended == whole


def stopped_after(round_: int) -> Any:
    """A validation that is interrupted in the round after ``round_``."""
    original = Rounds._validate

    def validate(self: Rounds, current: int) -> Any:
        if current > round_:
            raise KeyboardInterrupt
        return original(self, current)

    return validate


def test_number_of_asked_sites_does_not_change_the_result(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = outcome(run(tmp_path / "few", raw))
    monkeypatch.setattr(server.federation.registration, "ASKED", COUNT)
    every = outcome(run(tmp_path / "every", raw))
    assert every["result"].pop("wire_bytes") > few["result"].pop("wire_bytes")
    assert every == few


@pytest.mark.parametrize(("least", "failing", "spare"), [(None, 1, 0), (COUNT - 1, 2, 1), (1, ASKED, ASKED - 1)])
def test_run_fails_if_too_many_sites_give_no_description(
    least: int | None, failing: int, spare: int, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_description(monkeypatch, [f"site-{number:04d}" for number in range(failing)])
    with pytest.raises(RunError) as error:
        run(tmp_path, {**raw, "sites": {"count": COUNT, "min": least}})
    answered = f"{ASKED - failing} of the {ASKED} sites that were asked sent a description"
    bound = f"at least {least or COUNT} of all {COUNT} sites must be connected (sites.min), so at most {spare}"
    assert str(error.value).startswith(f"{answered}; {bound} may fail here. site-0000")
    assert str(error.value).endswith("no description")


@pytest.mark.parametrize(("least", "failing"), [(COUNT - 1, 1), (1, ASKED - 1)])
def test_sites_that_give_no_description_stay_in_the_run_and_change_nothing(
    least: int, failing: int, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The result does not depend on which sites are asked for a description, nor on their failures."""
    raw = {**raw, "sites": {"count": COUNT, "min": least}}
    whole = outcome(run(tmp_path / "whole", raw))
    capsys.readouterr()
    without_description(monkeypatch, [f"site-{number:04d}" for number in range(failing)])
    found = outcome(run(tmp_path / "silent", raw))
    assert found["result"].pop("wire_bytes") < whole["result"].pop("wire_bytes")
    assert found == whole
    assert f"round 0: {ASKED - failing} of {ASKED} sites answered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code_hash": "0ld"}, "runs other code: expected code hash [0-9a-f]{64}, found 0ld"),
        ({"spec_hash": "0ld"}, "has another data set: expected spec hash [0-9a-f]{64}, found 0ld"),
        ({"samples": 9}, "has other samples: expected the number 4, found 9"),
        ({"modalities": ("steps",)}, r"has other samples: expected the modalities \(.*\), found \('steps',\)"),
    ],
)
def test_run_fails_if_a_description_differs_from_the_server(
    change: dict[str, Any], message: str, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SiteInfo.of

    def description(*arguments: Any) -> SiteInfo:
        return SiteInfo(**{**vars(original(*arguments)), **change})

    monkeypatch.setattr(SiteInfo, "of", staticmethod(description))
    with pytest.raises(RunError, match=f"site site-0000 {message}"):
        run(tmp_path, {**raw, "missing": {}})


def other_values(dataset: Dataset, name: str) -> Dataset:
    """``dataset`` with a copy of its last training sample's ``name`` in place of its first one's."""
    array = dataset.arrays[name].copy()
    array[0] = array[dataset.members(0)[-1]]
    return replace(dataset, arrays={**dataset.arrays, name: array})


@pytest.mark.parametrize(("name", "resumed"), [("picture", False), ("features", False), ("features", True)])
def test_run_fails_if_sites_hold_other_values_under_the_same_specification(
    name: str, resumed: bool, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster machine with other files in ``data.root``."""
    raw = {**raw, "missing": {}, "rounds": 2}
    if resumed:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Rounds, "_validate", stopped_after(1))
            run(tmp_path, raw)
    forget()
    original = client.simulated.load_dataset
    monkeypatch.setattr(client.simulated, "load_dataset", lambda config: other_values(original(config), name))
    message = (
        rf"site site-\d{{4}} has other values of {name} than those assigned to it: expected the same data on every"
    )
    with pytest.raises(RunError, match=message):
        resume(tmp_path / "run") if resumed else run(tmp_path, raw)
    assert len(lines(tmp_path / "run", "metrics.jsonl")) if resumed else not (tmp_path / "run/metrics.jsonl").exists()
    forget()

"""``mmfedmc`` through the real apps: what travels, a resume, and forests at simulated and at deployed sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import client.app
from fedrecon_core.state import EXTRACTORS, HEAD_GROUP
from server.cli import application
from server.runs.setup import create_run
from server.training.checkpoints import load_newest
from tests.helpers import runs
from tests.helpers.deployed import deploy, node_configs
from tests.helpers.interruption import stop_in

LOCAL = {"name": "mmfedmc", "fusion": "local", "delta": 1.0}


def settings(**changes: Any) -> dict[str, Any]:
    return runs.settings(**{"strategy": "mmfedmc", **changes})


def kept(directory: Path) -> dict[str, int]:
    """Site and modality -> the round of the last upload."""
    found = {}
    for folder in sorted((directory / "sites").iterdir()):
        newest = max(folder.glob("hook.round-*.safetensors"))
        found.update({f"{folder.name}/{key}": int(tensor) for key, tensor in load_file(newest).items()})
    return found


def extractors(line: dict[str, Any], way: str) -> list[str]:
    return [group for group in line[f"groups_{way}"] if group.startswith(EXTRACTORS)]


@pytest.mark.parametrize("recovery", ["zero", "mask", "fedrecon"])
def test_one_modality_goes_up_and_what_belongs_to_the_recovery(recovery: str, tmp_path: Path) -> None:
    chosen = {"name": recovery, "latent": 4, "warmup_rounds": 1} if recovery == "fedrecon" else {"name": recovery}
    mine, plain = (
        runs.run(tmp_path / name, settings(recovery=chosen, strategy=name)) for name in ("mmfedmc", "fedavg")
    )
    for line, other in zip(runs.lines(mine, "sites.jsonl"), runs.lines(plain, "sites.jsonl"), strict=True):
        assert line["groups_down"] == other["groups_down"] and line["bytes_down"] == other["bytes_down"]
        assert len(extractors(line, "up")) == 1 < len(extractors(other, "up"))
        assert set(other["groups_up"]) - set(line["groups_up"]) < set(extractors(other, "up"))
        assert line["counts"].keys() == set(line["groups_up"]) and line["bytes_up"] < other["bytes_up"]
    totals = [runs.result(directory) for directory in (mine, plain)]
    assert totals[0]["bytes_up"] < totals[1]["bytes_up"] and totals[0]["bytes_down"] == totals[1]["bytes_down"]


def test_a_modality_whose_reply_was_lost_counts_as_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where recency alone counts, a complete site sends what was not sent for longest."""
    found, original = {}, client.app.train_locally

    def train(job: Any, modules: Any) -> Any:
        result = original(job, modules)
        if job.site == "site-0001":
            round_ = job.global_info.round
            found[round_] = [group.removeprefix(EXTRACTORS) for group in result.groups if group.startswith(EXTRACTORS)]
            if round_ in (2, 3):
                raise ConnectionError("the line is dead")
        return result

    monkeypatch.setattr(client.app, "train_locally", train)
    recency = {"name": "mmfedmc", "priority": {"shapley": 0, "size": 0, "recency": 1}}
    runs.run(tmp_path, settings(recovery={"name": "mask"}, missing={}, strategy=recency, rounds=5))
    assert found == {1: ["features"], 2: ["picture"], 3: ["picture"], 4: ["picture"], 5: ["steps"]}


def test_the_training_counts_are_those_of_the_sites_that_were_averaged(tmp_path: Path) -> None:
    directory = runs.run(tmp_path, settings(recovery={"name": "mask"}))
    lines, training = runs.lines(directory, "sites.jsonl"), load_newest(directory / "checkpoints")
    assert training is not None
    by_round = [[line["counts"] for line in lines if line["round"] == round_] for round_ in (1, 2, 3)]
    assert training.trained[HEAD_GROUP] == sum(counts[0][HEAD_GROUP] for counts in by_round), "one site of three each"
    assert sum(n for g, n in training.trained.items() if g != HEAD_GROUP) < training.trained[HEAD_GROUP] * 1.01


@pytest.mark.parametrize("crash_in", [1, 3])
def test_a_resumed_run_ends_with_the_same_model_and_the_same_rounds_of_uploads(
    crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = settings(rounds=4, sites={"count": 4, "fraction": 0.5})
    whole = runs.run(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        stop_in(crash_in, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "cut", raw)
    resumed = runs.resume(tmp_path / "cut" / "run")
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    assert kept(resumed) == kept(whole) and len(set(kept(whole).values())) > 1


def test_forests_at_the_sites_are_what_is_scored_there(tmp_path: Path) -> None:
    """The same samples, the same groups down, other predictions; and the same ones again."""
    base = settings(recovery={"name": "mask"}, evaluate={"where": "sites"}, strategy=LOCAL)
    forest = runs.run(tmp_path / "forest", base)
    again = runs.run(tmp_path / "again", base)
    task = runs.run(tmp_path / "task", {**base, "strategy": {**LOCAL, "fusion": "task"}})
    assert runs.outcome(forest) == runs.outcome(again)
    found, other = (
        [line for line in runs.lines(d, "metrics.jsonl") if line["split"] != "train"] for d in (forest, task)
    )
    assert [line["n"] for line in found] == [line["n"] for line in other]
    assert all(one["loss"] != two["loss"] for one, two in zip(found, other, strict=True))
    assert runs.result(forest)["bytes_down"] == runs.result(task)["bytes_down"]


@pytest.mark.parametrize("recovery", ["zero", "mask", "fedrecon"])
def test_the_best_round_is_tested_with_a_forest_of_its_own(recovery: str, tmp_path: Path) -> None:
    """A run that stops at its best round tests the same model, and gives the same test."""
    chosen = {"name": recovery, "latent": 4, "warmup_rounds": 1} if recovery == "fedrecon" else {"name": recovery}
    raw = settings(recovery=chosen, evaluate={"where": "sites"}, strategy=LOCAL, rounds=5)
    whole = runs.result(runs.run(tmp_path / "whole", raw))
    short = runs.result(runs.run(tmp_path / "short", {**raw, "rounds": whole["best_round"]}))
    assert short["model_sha256"] == whole["model_sha256"] and short["test"] == whole["test"]


def test_a_site_whose_held_out_samples_lack_a_modality_still_has_a_forest(tmp_path: Path) -> None:
    """It gets the groups of what it is to score, and its training samples hold more."""
    profile = [{"sites": 2, "modalities": ["picture", "features", "steps"]}, {"sites": 1, "modalities": ["features"]}]
    missing = {"train": {"level": "none"}} | {
        split: {"level": "profile", "profile": profile} for split in ("validation", "test")
    }
    for recovery in ("mask", "fedrecon"):
        chosen = {"name": recovery, "latent": 4, "warmup_rounds": 0} if recovery == "fedrecon" else {"name": recovery}
        raw = settings(recovery=chosen, missing=missing, evaluate={"where": "sites"}, strategy=LOCAL)
        lines = runs.lines(runs.run(tmp_path / recovery, raw), "metrics.jsonl")
        assert not any("failures" in line for line in lines)


def test_deployed_sites_score_as_simulated_ones(tmp_path: Path) -> None:
    """A deployed site opens its own training samples, a simulated one is told of them."""
    torch.set_num_threads(1)
    raw = settings(recovery={"name": "mask"}, evaluate={"where": "sites"}, strategy=LOCAL, rounds=2)
    config = runs.write(tmp_path, raw)
    done = CliRunner().invoke(application, ["data", "split", str(config), "--out", str(tmp_path / "sites")])
    assert done.exit_code == 0, done.output
    folders = tmp_path / "sites"
    simulated = runs.run(tmp_path / "simulated", raw)
    changes = ("engine.name=deployment", "sites.wait=1", "sites.min=1")
    there = create_run(folders / "federation.yaml", changes, out=tmp_path / "deployed")
    deploy(there, node_configs(folders, tmp_path / "states"))
    mine, theirs = (runs.result(directory) for directory in (tmp_path / "deployed", simulated))
    assert mine["parameters_sha256"] == theirs["parameters_sha256"] and mine["test"] == theirs["test"]

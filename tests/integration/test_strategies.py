"""``mmfedmc`` and ``scaffold`` through the real apps: messages, resumed runs, simulated and deployed sites."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import client.app
from fedrecon_core.local.local_round import TrainResult
from fedrecon_core.state import EXTRACTORS, HEAD_GROUP
from server.runs.directory import RunDirectory, newest_round
from server.runs.setup import create_run
from server.training.checkpoints import load_newest
from strategies.messages import Accepted
from tests.helpers import runs
from tests.helpers.runs import deploy, node_configs, stop_in

LOCAL = {"name": "mmfedmc", "fusion": "local", "delta": 1.0}


def mmfedmc_settings(**changes: Any) -> dict[str, Any]:
    return runs.settings(**{"strategy": "mmfedmc", **changes})


def last_uploads(directory: Path) -> dict[str, int]:
    """Site and modality -> the round of the last upload."""
    found = {}
    for folder in sorted((directory / "sites").iterdir()):
        newest = max(folder.glob("hook.round-*.safetensors"))
        found.update({f"{folder.name}/{key}": int(tensor) for key, tensor in load_file(newest).items()})
    return found


def extractors(line: dict[str, Any], way: str) -> list[str]:
    return [group for group in line[f"groups_{way}"] if group.startswith(EXTRACTORS)]


@pytest.mark.parametrize("recovery", ["zero", "mask", "fedrecon"])
def test_one_modality_and_the_groups_of_the_recovery_are_uploaded(recovery: str, tmp_path: Path) -> None:
    chosen = {"name": recovery, "latent": 4, "warmup_rounds": 1} if recovery == "fedrecon" else {"name": recovery}
    mine, plain = (
        runs.run(tmp_path / name, mmfedmc_settings(recovery=chosen, strategy=name)) for name in ("mmfedmc", "fedavg")
    )
    for line, other in zip(runs.lines(mine, "sites.jsonl"), runs.lines(plain, "sites.jsonl"), strict=True):
        assert line["groups_down"] == other["groups_down"] and line["bytes_down"] == other["bytes_down"]
        assert len(extractors(line, "up")) == 1 < len(extractors(other, "up"))
        assert set(other["groups_up"]) - set(line["groups_up"]) < set(extractors(other, "up"))
        assert line["counts"].keys() == set(line["groups_up"]) and line["bytes_up"] < other["bytes_up"]
    totals = [runs.result(directory) for directory in (mine, plain)]
    assert totals[0]["bytes_up"] < totals[1]["bytes_up"] and totals[0]["bytes_down"] == totals[1]["bytes_down"]


def test_modality_of_a_lost_reply_counts_as_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only recency counts, a complete site sends the modality whose last upload is oldest."""
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
    runs.run(tmp_path, mmfedmc_settings(recovery={"name": "mask"}, missing={}, strategy=recency, rounds=5))
    assert found == {1: ["features"], 2: ["picture"], 3: ["picture"], 4: ["picture"], 5: ["steps"]}


def test_training_counts_include_averaged_sites_only(tmp_path: Path) -> None:
    directory = runs.run(tmp_path, mmfedmc_settings(recovery={"name": "mask"}))
    lines, training = runs.lines(directory, "sites.jsonl"), load_newest(directory / "checkpoints")
    assert training is not None
    by_round = [[line["counts"] for line in lines if line["round"] == round_] for round_ in (1, 2, 3)]
    assert training.trained[HEAD_GROUP] == sum(counts[0][HEAD_GROUP] for counts in by_round), "one site of three each"
    assert sum(n for g, n in training.trained.items() if g != HEAD_GROUP) < training.trained[HEAD_GROUP] * 1.01


@pytest.mark.parametrize("crash_in", [1, 3])
def test_resumed_run_has_the_same_model_and_upload_rounds(
    crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = mmfedmc_settings(rounds=4, sites={"count": 4, "fraction": 0.5})
    whole = runs.run(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        stop_in(crash_in, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "cut", raw)
    resumed = runs.resume(tmp_path / "cut" / "run")
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    assert last_uploads(resumed) == last_uploads(whole) and len(set(last_uploads(whole).values())) > 1


def test_forests_at_the_sites_are_scored(tmp_path: Path) -> None:
    """Forests score the same samples after the same downloads; their predictions are reproducible and their own."""
    base = mmfedmc_settings(recovery={"name": "mask"}, evaluate={"where": "sites"}, strategy=LOCAL)
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
def test_best_round_is_tested_with_its_own_forest(recovery: str, tmp_path: Path) -> None:
    """A run that ends at its best round tests the same model with the same result."""
    chosen = {"name": recovery, "latent": 4, "warmup_rounds": 1} if recovery == "fedrecon" else {"name": recovery}
    raw = mmfedmc_settings(recovery=chosen, evaluate={"where": "sites"}, strategy=LOCAL, rounds=5)
    whole = runs.result(runs.run(tmp_path / "whole", raw))
    short = runs.result(runs.run(tmp_path / "short", {**raw, "rounds": whole["best_round"]}))
    assert short["model_sha256"] == whole["model_sha256"] and short["test"] == whole["test"]


def test_site_has_a_forest_even_if_held_out_samples_lack_a_modality(tmp_path: Path) -> None:
    """The site downloads the groups of its held-out modalities only; its training samples have more."""
    profile = [{"sites": 2, "modalities": ["picture", "features", "steps"]}, {"sites": 1, "modalities": ["features"]}]
    missing = {"train": {"level": "none"}} | {
        split: {"level": "profile", "profile": profile} for split in ("validation", "test")
    }
    for recovery in ("mask", "fedrecon"):
        chosen = {"name": recovery, "latent": 4, "warmup_rounds": 0} if recovery == "fedrecon" else {"name": recovery}
        raw = mmfedmc_settings(recovery=chosen, missing=missing, evaluate={"where": "sites"}, strategy=LOCAL)
        lines = runs.lines(runs.run(tmp_path / recovery, raw), "metrics.jsonl")
        assert not any("failures" in line for line in lines)


def test_deployed_sites_score_like_simulated_ones(tmp_path: Path) -> None:
    """A deployed site opens its own training samples, a simulated one receives their positions."""
    torch.set_num_threads(1)
    raw = mmfedmc_settings(recovery={"name": "mask"}, evaluate={"where": "sites"}, strategy=LOCAL, rounds=2)
    folders = runs.split_sites(runs.write(tmp_path, raw))
    simulated = runs.run(tmp_path / "simulated", raw)
    changes = ("engine.name=deployment", "sites.wait=1", "sites.min=1")
    there = create_run(folders / "federation.yaml", changes, out=tmp_path / "deployed")
    deploy(there, node_configs(folders, tmp_path / "states"))
    mine, theirs = (runs.result(directory) for directory in (tmp_path / "deployed", simulated))
    assert mine["parameters_sha256"] == theirs["parameters_sha256"] and mine["test"] == theirs["test"]


# --- scaffold: its state at the server and at the sites ---------------------------------------------------------------

BAD = "site-0001"
TASK = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}


def scaffold_settings(**changes: Any) -> dict[str, Any]:
    return runs.settings(strategy="scaffold", local={"task": TASK}, **changes)


def stopped_in(round_: int, folder: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose server dies after the sites have finished ``round_`` and before its checkpoint."""
    with monkeypatch.context() as patch:
        stop_in(round_, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(folder, raw)
    return folder / "run"


def variates(directory: Path) -> dict[str, torch.Tensor]:
    """The newest c_i of every site, by site, group and tensor."""
    found = {}
    for folder in sorted((directory / "sites").iterdir()):
        newest = max(folder.glob("hook.round-*.safetensors"))
        found.update({f"{folder.name}/{key}": tensor for key, tensor in load_file(newest).items()})
    return found


def assert_consistent(directory: Path) -> None:
    """Assert that the server's sums equal the sums of the newest c_i of the sites."""
    training, found = load_newest(directory / "checkpoints"), variates(directory)
    assert training is not None and training.strategy
    for group, sums in training.strategy.items():
        for name, tensor in sums.items():
            own = [value.double() for key, value in found.items() if key.endswith(f"/{group}/{name}")]
            torch.testing.assert_close(tensor, torch.stack(own).sum(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("crash_in", [1, 2, 4])
def test_resumed_run_has_the_same_model_and_variates(
    crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four sites train per round, so that the sites' states come from different rounds."""
    raw = scaffold_settings(rounds=4, sites={"count": 4, "fraction": 0.5})
    whole = runs.run(tmp_path / "whole", raw)
    resumed = runs.resume(stopped_in(crash_in, tmp_path / "cut", raw, monkeypatch))
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    mine, theirs = variates(resumed), variates(whole)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert any(tensor.abs().max() > 0 for tensor in mine.values())
    one, two = (load_newest(directory / "checkpoints") for directory in (resumed, whole))
    assert one is not None and two is not None and one.strategy.keys() == two.strategy.keys() != set()
    for group, sums in one.strategy.items():
        assert all(torch.equal(tensor, two.strategy[group][name]) for name, tensor in sums.items())


def test_server_state_is_the_sum_of_site_variates(tmp_path: Path) -> None:
    assert_consistent(runs.run(tmp_path, scaffold_settings()))


# --- replies that the server does not accept, of rounds that the site has finished ------------------------------------


def refused(found: TrainResult) -> TrainResult:
    """The reply arrives with NaN."""
    groups = {g: {name: tensor * float("nan") for name, tensor in state.items()} for g, state in found.groups.items()}
    return replace(found, groups=groups)


def lost(found: TrainResult) -> TrainResult:
    """The reply does not arrive."""
    raise ConnectionError("the line is dead")


def spoilt(rounds: set[int], change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply ``change`` to the bad site's replies in ``rounds``, after the site has stored its state."""
    original = client.app.train_locally

    def train(job: Any, modules: Any) -> Any:
        found = original(job, modules)
        return change(found) if job.site == BAD and job.global_info.round in rounds else found

    monkeypatch.setattr(client.app, "train_locally", train)


@pytest.mark.parametrize("change", [refused, lost])
def test_site_stays_consistent_after_a_rejected_reply(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt({1, 3}, change, monkeypatch)
    directory = runs.run(tmp_path, scaffold_settings(rounds=4))
    failed = [(line["round"], line["site"]) for line in runs.lines(directory, "sites.jsonl") if line["status"] != "ok"]
    assert failed == [(1, BAD), (3, BAD)]
    assert_consistent(directory)


def test_round_below_the_quorum_is_repeated_from_the_same_variates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failures = runs.run(tmp_path / "whole", scaffold_settings()), iter([True, False])
    spoilt({2}, lambda found: lost(found) if next(failures) else found, monkeypatch)
    repeated = runs.run(tmp_path / "repeated", scaffold_settings(sites={"count": 3, "quorum": 1.0}))
    assert runs.result(repeated)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    assert_consistent(repeated)


@pytest.mark.parametrize("crash_in", [2, 3, 4])
@pytest.mark.parametrize("damaged", [False, True], ids=["newest checkpoint", "older checkpoint"])
def test_resumed_run_knows_which_replies_were_accepted(
    damaged: bool, crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bad site's reply of round 2 was lost; from the older checkpoint two rounds are repeated."""
    spoilt({2}, lost, monkeypatch)
    whole = runs.run(tmp_path / "whole", scaffold_settings(rounds=4))
    cut = stopped_in(crash_in, tmp_path / "cut", scaffold_settings(rounds=4), monkeypatch)
    if damaged:
        shutil.rmtree(max((cut / "checkpoints").iterdir()))
    resumed = runs.resume(cut)
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    assert_consistent(resumed)


def test_deployed_site_without_its_state_fails_until_the_state_is_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state is removed before round 3 and restored before round 5."""
    out = tmp_path / "run"
    runs.split_sites(runs.write(tmp_path, scaffold_settings(rounds=5)))
    there, away = tmp_path / "states" / BAD, tmp_path / "away"

    def connected(names: list[str]) -> list[str]:
        done = newest_round(out / "checkpoints")
        if done == 2 and there.exists():
            there.rename(away)
        if done == 4 and away.exists():
            shutil.rmtree(there, ignore_errors=True)
            away.rename(there)
        return names

    changes = ("engine.name=deployment", "sites.wait=1", "sites.min=1")
    prepared = create_run(tmp_path / "sites" / "federation.yaml", changes, out=out)
    deploy(prepared, node_configs(tmp_path / "sites", tmp_path / "states"), connected)
    lines = [line for line in runs.lines(out, "sites.jsonl") if line["site"] == BAD]
    assert [line["status"] for line in lines] == ["ok", "ok", "failed", "failed", "ok"]
    folder = there / RunDirectory(out).identity
    for line in lines[2:4]:
        assert line["reason"].startswith(
            f"state folder {folder}: expected 'hook' of round 2, which the server accepted"
        )
        assert "found no version; restore it from a backup" in line["reason"]
    output = " ".join(capsys.readouterr().out.split())
    assert f"round 3: 2 of 3 sites answered; {BAD}: state folder" in output
    training = load_newest(out / "checkpoints")
    assert training is not None and training.accepted[BAD] == Accepted(5)


# --- what travels -----------------------------------------------------------------------------------------------------


def test_variates_count_as_traffic_but_not_as_training(tmp_path: Path) -> None:
    plain = runs.run(tmp_path / "plain", {**scaffold_settings(), "strategy": "fedavg"})
    directory = runs.run(tmp_path / "scaffold", scaffold_settings())
    for mine, other in zip(runs.lines(directory, "sites.jsonl"), runs.lines(plain, "sites.jsonl"), strict=True):
        for way in ("down", "up"):
            task = [group for group in other[f"groups_{way}"] if group.startswith("task.")]
            variates_of_task = [f"strategy.scaffold.{group}" for group in task]
            assert mine[f"groups_{way}"] == sorted([*other[f"groups_{way}"], *variates_of_task])
            assert mine[f"bytes_{way}"] > other[f"bytes_{way}"]
        assert {g: n for g, n in mine["counts"].items() if not g.startswith("strategy.")} == other["counts"]
    one, two = (load_newest(path / "checkpoints") for path in (directory, plain))
    assert one is not None and two is not None
    assert one.trained == two.trained and one.groups.keys() == two.groups.keys()


POISON = {
    "NaN": (lambda tensor: tensor * float("nan"), "contains NaN or infinity"),
    "a wrong shape": (lambda tensor: tensor[..., :1], "expected float32"),
    "a 1e30-scaled variate": (lambda tensor: tensor * 1e30, "an update of norm"),
}


@pytest.mark.parametrize("poison", POISON)
def test_poisoned_variate_is_rejected_by_name(poison: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, words = POISON[poison]
    original = client.app.train_locally

    def poisoned(job: Any, modules: Any) -> Any:
        found, name = original(job, modules), "strategy.scaffold.task.head"
        if job.site != BAD:
            return found
        return replace(found, groups={**found.groups, name: {n: change(t) for n, t in found.groups[name].items()}})

    monkeypatch.setattr(client.app, "train_locally", poisoned)
    directory = runs.run(tmp_path, scaffold_settings(rounds=2))
    failed = [line for line in runs.lines(directory, "sites.jsonl") if line["status"] == "failed"]
    assert [line["site"] for line in failed] == [BAD, BAD]
    for line in failed:
        assert line["reason"].startswith("reply rejected: strategy.scaffold.task.head: ") and words in line["reason"]
    assert runs.result(directory)["status"] == "completed"

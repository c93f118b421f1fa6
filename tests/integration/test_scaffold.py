"""``scaffold`` through the real apps: its state at both ends over a resume, its traffic, and variates that are none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import client.app
from fedrecon_core.local.local_round import TrainResult
from server.cli import application
from server.runs.directory import RunDirectory
from server.runs.setup import create_run
from server.training.checkpoints import load_newest, newest_round
from strategies.messages import Accepted
from tests.helpers import runs
from tests.helpers.deployed import deploy, node_configs
from tests.helpers.interruption import stop_in

BAD = "site-0001"
TASK = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}


def settings(**changes: Any) -> dict[str, Any]:
    return runs.settings(strategy="scaffold", local={"task": TASK}, **changes)


def stopped_in(round_: int, folder: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose sites have finished ``round_`` and kept their state when the server dies before its checkpoint."""
    with monkeypatch.context() as patch:
        stop_in(round_, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(folder, raw)
    return folder / "run"


def kept(directory: Path) -> dict[str, torch.Tensor]:
    """The newest c_i of every site, by site, group and tensor."""
    found = {}
    for folder in sorted((directory / "sites").iterdir()):
        newest = max(folder.glob("hook.round-*.safetensors"))
        found.update({f"{folder.name}/{key}": tensor for key, tensor in load_file(newest).items()})
    return found


def assert_in_step(directory: Path) -> None:
    """The server's sums are those of the newest c_i of the sites, whose last replies it accepted."""
    training, found = load_newest(directory / "checkpoints"), kept(directory)
    assert training is not None and training.strategy
    for group, sums in training.strategy.items():
        for name, tensor in sums.items():
            own = [value.double() for key, value in found.items() if key.endswith(f"/{group}/{name}")]
            torch.testing.assert_close(tensor, torch.stack(own).sum(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("crash_in", [1, 2, 4])
def test_a_resumed_run_ends_with_the_same_model_and_the_same_variates(
    crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four sites train in a round, so that what a site needs was kept in different rounds."""
    raw = settings(rounds=4, sites={"count": 4, "fraction": 0.5})
    whole = runs.run(tmp_path / "whole", raw)
    resumed = runs.resume(stopped_in(crash_in, tmp_path / "cut", raw, monkeypatch))
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    mine, theirs = kept(resumed), kept(whole)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert any(tensor.abs().max() > 0 for tensor in mine.values())
    one, two = (load_newest(directory / "checkpoints") for directory in (resumed, whole))
    assert one is not None and two is not None and one.strategy.keys() == two.strategy.keys() != set()
    for group, sums in one.strategy.items():
        assert all(torch.equal(tensor, two.strategy[group][name]) for name, tensor in sums.items())


def test_the_server_holds_the_sum_of_what_the_sites_keep(tmp_path: Path) -> None:
    assert_in_step(runs.run(tmp_path, settings()))


# --- replies that the server does not accept, of rounds that the site has finished ------------------------------------


def refused(found: TrainResult) -> TrainResult:
    """It arrives, with what is no number."""
    groups = {g: {name: tensor * float("nan") for name, tensor in state.items()} for g, state in found.groups.items()}
    return replace(found, groups=groups)


def lost(found: TrainResult) -> TrainResult:
    """It does not arrive."""
    raise ConnectionError("the line is dead")


def spoilt(rounds: set[int], change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bad site's replies in ``rounds`` are what ``change`` makes of them; the site has kept its state by then."""
    original = client.app.train_locally

    def train(job: Any, modules: Any) -> Any:
        found = original(job, modules)
        return change(found) if job.site == BAD and job.global_info.round in rounds else found

    monkeypatch.setattr(client.app, "train_locally", train)


@pytest.mark.parametrize("change", [refused, lost])
def test_a_reply_that_is_not_accepted_leaves_the_site_in_step(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt({1, 3}, change, monkeypatch)
    directory = runs.run(tmp_path, settings(rounds=4))
    failed = [(line["round"], line["site"]) for line in runs.lines(directory, "sites.jsonl") if line["status"] != "ok"]
    assert failed == [(1, BAD), (3, BAD)]
    assert_in_step(directory)


def test_a_round_below_the_quorum_is_repeated_from_the_same_variates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failures = runs.run(tmp_path / "whole", settings()), iter([True, False])
    spoilt({2}, lambda found: lost(found) if next(failures) else found, monkeypatch)
    repeated = runs.run(tmp_path / "repeated", settings(sites={"count": 3, "quorum": 1.0}))
    assert runs.result(repeated)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    assert_in_step(repeated)


@pytest.mark.parametrize("crash_in", [2, 3, 4])
@pytest.mark.parametrize("damaged", [False, True], ids=["newest checkpoint", "older checkpoint"])
def test_a_resumed_run_knows_which_replies_were_accepted(
    damaged: bool, crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bad site's reply of round 2 was lost; from the older checkpoint two rounds are repeated."""
    spoilt({2}, lost, monkeypatch)
    whole = runs.run(tmp_path / "whole", settings(rounds=4))
    cut = stopped_in(crash_in, tmp_path / "cut", settings(rounds=4), monkeypatch)
    if damaged:
        shutil.rmtree(max((cut / "checkpoints").iterdir()))
    resumed = runs.resume(cut)
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    assert_in_step(resumed)


def test_a_deployed_site_that_lost_its_state_is_refused_in_words_until_it_is_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is gone before round 3 and back before round 5."""
    config, out = runs.write(tmp_path, settings(rounds=5)), tmp_path / "run"
    arguments = ["data", "split", str(config), "--out", str(tmp_path / "sites")]
    assert CliRunner().invoke(application, arguments, catch_exceptions=False).exit_code == 0
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
    said = " ".join(capsys.readouterr().out.split())
    assert f"round 3: 2 of 3 sites answered; {BAD}: state folder" in said
    training = load_newest(out / "checkpoints")
    assert training is not None and training.accepted[BAD] == Accepted(5)


# --- what travels -----------------------------------------------------------------------------------------------------


def test_the_traffic_counts_the_variates_and_the_training_does_not(tmp_path: Path) -> None:
    plain = runs.run(tmp_path / "plain", {**settings(), "strategy": "fedavg"})
    directory = runs.run(tmp_path / "scaffold", settings())
    for mine, other in zip(runs.lines(directory, "sites.jsonl"), runs.lines(plain, "sites.jsonl"), strict=True):
        for way in ("down", "up"):
            task = [group for group in other[f"groups_{way}"] if group.startswith("task.")]
            beside = [f"strategy.scaffold.{group}" for group in task]
            assert mine[f"groups_{way}"] == sorted([*other[f"groups_{way}"], *beside])
            assert mine[f"bytes_{way}"] > other[f"bytes_{way}"]
        assert {g: n for g, n in mine["counts"].items() if not g.startswith("strategy.")} == other["counts"]
    one, two = (load_newest(path / "checkpoints") for path in (directory, plain))
    assert one is not None and two is not None
    assert one.trained == two.trained and one.groups.keys() == two.groups.keys()


POISON = {
    "NaN": (lambda tensor: tensor * float("nan"), "holds NaN or infinity"),
    "a wrong shape": (lambda tensor: tensor[..., :1], "expected float32"),
    "a 1e30-scaled variate": (lambda tensor: tensor * 1e30, "an update of norm"),
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_variate_costs_the_site_its_round_and_names_itself(
    poison: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = POISON[poison]
    original = client.app.train_locally

    def poisoned(job: Any, modules: Any) -> Any:
        found, name = original(job, modules), "strategy.scaffold.task.head"
        if job.site != BAD:
            return found
        return replace(found, groups={**found.groups, name: {n: change(t) for n, t in found.groups[name].items()}})

    monkeypatch.setattr(client.app, "train_locally", poisoned)
    directory = runs.run(tmp_path, settings(rounds=2))
    failed = [line for line in runs.lines(directory, "sites.jsonl") if line["status"] == "failed"]
    assert [line["site"] for line in failed] == [BAD, BAD]
    for line in failed:
        assert line["reason"].startswith("reply rejected: strategy.scaffold.task.head: ") and words in line["reason"]
    assert runs.result(directory)["status"] == "completed"

"""``scaffold`` through the real apps: its state at both ends over a resume, its traffic, and variates that are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import client.app
from server.checkpoint import load_newest
from tests.integration.test_run import stop_in
from tests.toys import runs

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
    directory = runs.run(tmp_path, settings())
    training, found = load_newest(directory / "checkpoints"), kept(directory)
    assert training is not None
    for group, sums in training.strategy.items():
        for name, tensor in sums.items():
            own = [value.double() for key, value in found.items() if key.endswith(f"/{group}/{name}")]
            torch.testing.assert_close(tensor, torch.stack(own).sum(dim=0), rtol=1e-5, atol=1e-6)


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

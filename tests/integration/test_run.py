"""A whole run through the real apps in one process: its directory, its repeatability, its resume after any fault."""

from __future__ import annotations

import contextlib
import html
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import client.app
import client.simulated
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.site_data import open_site
from fedrecon_core.errors import DataError, RunError, UsageError
from fedrecon_core.inference import load_model
from fedrecon_core.local.local_round import train_locally
from fedrecon_core.registry import DATASETS, RECOVERIES, STRATEGIES
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import group_bytes, read_group
from server.runs.directory import newest_round
from server.runs.setup import create_run, load_config, open_run, resume_run, start_run
from strategies.fedavg import FedAvg
from tests.helpers import runs
from tests.helpers.processes import wait_until
from tests.helpers.runs import Momentum, caller, stop_in

FILES = {
    "config.yaml",
    "manifest.json",
    "metrics.jsonl",
    "sites.jsonl",
    "checkpoints",
    "model",
    "result.json",
    "report.html",
    "predictions.parquet",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One completed run of FedRecon, shared by the tests that only read."""
    return runs.run(tmp_path_factory.mktemp("finished"), runs.settings())


def test_run_directory_has_all_documented_files(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= FILES
    result = runs.result(finished)
    assert result["status"] == "completed" and result["rounds"] == 3
    assert {"accuracy", "uar", "macro_f1", "loss", "n"} <= set(result["test"])
    assert len(result["parameters_sha256"]) == len(result["model_sha256"]) == 64
    assert {"bytes_down", "bytes_up", "wall_seconds", "train_seconds"} <= set(result)


def test_the_command_in_the_report_repeats_the_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(finished, tmp_path / "a run")
    page = html.unescape((copied / "report.html").read_text(encoding="utf-8"))
    (command,) = re.findall("<code>fedrecon (run .*?)</code>", page)
    monkeypatch.chdir(copied)
    code, _, err = caller(monkeypatch, capsys)(*shlex.split(command))
    assert (code, err) == (0, "")
    assert runs.outcome(tmp_path / "repeated") == runs.outcome(finished)


def test_processor_time_of_the_sites_adds_up_in_the_result(finished: Path) -> None:
    worked = [line["processor_seconds"] for line in runs.lines(finished, "sites.jsonl")]
    assert min(worked) > 0
    assert runs.result(finished)["train_processor_seconds"] == pytest.approx(sum(worked))


def test_waiting_site_uses_wall_time_but_no_processor_time(tmp_path: Path, monkeypatch: Any) -> None:
    def late(*arguments: Any) -> Any:
        time.sleep(0.5)
        return train_locally(*arguments)

    monkeypatch.setattr("client.app.train_locally", late)
    lines = runs.lines(runs.run(tmp_path, runs.settings(rounds=1)), "sites.jsonl")
    assert len(lines) == 3
    for line in lines:
        assert line["total_seconds"] - line["processor_seconds"] > 0.45


def test_run_directory_has_no_pickle_files(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    binary = {path.suffix for path in files if not path.name.startswith("events.out.tfevents.")}  # protocol buffers
    assert binary <= {".lock", ".yaml", ".json", ".jsonl", ".safetensors", ".parquet", ".html", ".png"}


def test_there_is_one_metrics_line_per_round_and_split_and_test_is_read_once(finished: Path) -> None:
    found = [(line["round"], line["split"]) for line in runs.lines(finished, "metrics.jsonl")]
    rounds = [(round_, split) for round_ in (1, 2, 3) for split in ("train", "validation")]
    assert found == [*rounds, (runs.result(finished)["best_round"], "test")]


def test_test_is_scored_at_the_best_validation_round(finished: Path) -> None:
    scores = {
        line["round"]: line["uar"] for line in runs.lines(finished, "metrics.jsonl") if line["split"] == "validation"
    }
    assert runs.result(finished)["best_round"] == max(scores, key=lambda round_: (scores[round_], -round_))


def test_bytes_of_every_site_and_round_are_those_of_the_plan(finished: Path) -> None:
    config = load_config(finished / "config.yaml")
    dataset = DATASETS.get("toy")().load(config.data, None, config.seed)
    recovery = RECOVERIES.get("fedrecon")(config, dataset.spec)
    sizes = {name: group_bytes(read_group(module)) for name, module in recovery.build().items()}
    shares = allocate(dataset, config).train
    for line in runs.lines(finished, "sites.jsonl"):
        share = shares[line["site"]]
        held = [name for column, name in enumerate(dataset.spec.names) if share.present[:, column].any()]
        plan = recovery.plan(held)
        assert line["groups_down"] == list(plan.download)
        assert line["bytes_down"] == sum(sizes[group] for group in plan.download)
        assert set(line["groups_up"]) <= set(plan.upload)
        assert line["bytes_up"] == sum(sizes[group] for group in line["groups_up"])


def test_the_model_folder_gives_the_reported_test_score(finished: Path) -> None:
    model = load_model(finished / "model")
    config = load_config(finished / "config.yaml")
    dataset = DATASETS.get("toy")().load(config.data, None, config.seed)
    share = allocate(dataset, config).test["server"]
    data = open_site(dataset, share.samples, share.present, device=torch.device("cpu"))
    correct = (model.logits(data).argmax(dim=1) == data.labels).double().mean()
    assert float(correct) == pytest.approx(runs.result(finished)["test"]["accuracy"])


def test_the_resolved_config_repeats_the_run_in_all_but_the_clock(finished: Path, tmp_path: Path) -> None:
    again = runs.run(tmp_path, yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8")))
    assert runs.outcome(again) == runs.outcome(finished)


def test_another_seed_gives_another_run(finished: Path, tmp_path: Path) -> None:
    other = runs.run(tmp_path, runs.settings(seed=1))
    assert runs.result(other)["parameters_sha256"] != runs.result(finished)["parameters_sha256"]


def test_an_existing_run_directory_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        create_run(runs.write(tmp_path, runs.settings()), out=finished)


def test_resume_may_change_engine_and_site_limits_only(tmp_path: Path) -> None:
    directory = create_run(runs.write(tmp_path, runs.settings()), out=tmp_path / "run").directory.path
    with pytest.raises(UsageError, match="rounds=9"):
        resume_run(directory, ["rounds=9"])
    assert resume_run(directory, ["engine.workers=2"]).config.engine.workers == 2
    assert load_config(directory / "config.yaml").engine.workers == 2
    settings = ["sites.min=2", "sites.wait=7", "sites.timeout=8", "sites.quorum=0.3", "sites.retries=0"]
    assert resume_run(directory, [*settings, "updates.limit=50"]).config.sites.min == 2
    kept = load_config(directory / "config.yaml")
    assert (kept.sites.wait, kept.sites.timeout, kept.sites.quorum, kept.sites.retries) == (7, 8, 0.3, 0)
    assert kept.updates.limit == 50
    for other in ("sites.count=2", "seed=3", "sites.minimum=2"):
        with pytest.raises(UsageError, match=rf"'{other}' would change it \(only these may be set: engine\.\*, sites"):
            resume_run(directory, [other])
    with pytest.raises(UsageError, match=r"was begun with engine inprocess, and engine deployment has other sites"):
        resume_run(directory, ["engine.name=deployment"])


def test_resumed_deployment_keeps_the_settings_of_its_run_config(tmp_path: Path) -> None:
    directory = create_run(runs.write(tmp_path, runs.settings()), out=tmp_path / "run").directory
    claimed = start_run(open_run(directory.path, ["sites.wait=7"]))
    assert claimed.config.sites.wait == load_config(directory.config).sites.wait == 7
    with pytest.raises(UsageError, match="'rounds=9' would change it"):
        open_run(directory.path, ["rounds=9"])


def test_a_complete_run_is_not_resumed(finished: Path) -> None:
    before = runs.outcome(finished)
    with pytest.raises(UsageError, match="nothing to resume"):
        resume_run(finished)
    assert runs.outcome(finished) == before


def test_data_error_is_raised_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sites\.count"):
        create_run(runs.write(tmp_path, runs.settings(sites={"count": 5000})), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_without_any_sample_is_refused(split: str, tmp_path: Path) -> None:
    missing = {"empty": "skip", split: {"level": "sample", "rate": 1.0}}
    with pytest.raises(DataError, match=rf"missing\.{split}"):
        create_run(runs.write(tmp_path, runs.settings(missing=missing)), out=tmp_path / "run")


def test_diverged_run_fails_with_a_message_and_strict_json(tmp_path: Path) -> None:
    raw = runs.settings(recovery={"name": "mask"}, local={"task": {"lr": 1e30, "optimizer": "sgd", "epochs": 4}})
    with pytest.raises(RunError, match="NaN or infinity; the site diverged"):
        runs.run(tmp_path, raw)
    for line in (tmp_path / "run" / "sites.jsonl").read_text(encoding="utf-8").splitlines():
        found = json.loads(line, parse_constant=lambda text: pytest.fail(f"no JSON: {text}"))
        assert found["status"] == "failed" and found["attempt"] in (1, 2, 3)


def test_resume_fails_if_masks_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path, runs.settings())
    monkeypatch.undo()
    manifest = tmp_path / "run" / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"mask_sha256": "', '"mask_sha256": "0'), encoding="utf-8")
    with pytest.raises(
        RunError, match=r"the masks changed, .*; restore the data .*, or remove its directory to start again$"
    ):
        runs.resume(tmp_path / "run")


def test_resume_reports_and_records_changed_code_device_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_in(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path, runs.settings(device="cpu"))
    monkeypatch.undo()
    path = tmp_path / "run" / "manifest.json"
    began = json.loads(path.read_text(encoding="utf-8"))
    assert "earlier" not in began
    other = {"code_sha256": "0" * 64, "device": "cuda", "versions": {**began["versions"], "torch": "1.13.1"}}
    path.write_text(json.dumps({**began, **other}), encoding="utf-8")
    capsys.readouterr()
    runs.resume(tmp_path / "run")
    output = " ".join(capsys.readouterr().out.split())
    assert "this run began with other code; the rounds from here on may not repeat this run bit by bit" in output
    assert "the rounds so far were computed on cuda, and this machine continues on cpu; the rounds from" in output
    assert (
        f"the rounds so far were computed with torch 1.13.1 (now {began['versions']['torch']}); the rounds from"
        in output
    )
    ended = json.loads(path.read_text(encoding="utf-8"))
    assert ended == {**began, "earlier": [{"rounds": 1, **other}]}


@pytest.mark.parametrize("strategy", ["fedavg", "fedopt"])
@pytest.mark.parametrize("crash_in", [1, 2, 3])
def test_resumed_run_equals_an_uninterrupted_one(
    strategy: str, crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = runs.settings(strategy={"name": strategy})
    whole = runs.run(tmp_path / "whole", raw)
    stop_in(crash_in, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "cut", raw)
    assert runs.result(tmp_path / "cut" / "run")["status"] == "interrupted"
    monkeypatch.undo()
    resumed = runs.resume(tmp_path / "cut" / "run")
    ended, expected = runs.outcome(resumed), runs.outcome(whole)
    assert ended["result"].pop("wire_bytes") >= expected["result"].pop("wire_bytes")  # descriptions were sent twice
    assert ended == expected


@pytest.mark.parametrize("crash_in", [1, 2, 3])
def test_resumed_round_is_applied_once_at_the_sites(
    crash_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sites have finished the round and stored their state; the server dies before its checkpoint."""
    monkeypatch.setattr(FedAvg, "local_half", staticmethod(lambda params: Momentum()))
    raw = runs.settings(local={"task": {"optimizer": "sgd", "lr": 0.01}})
    whole = runs.run(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        stop_in(crash_in, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "cut", raw)
    resumed = runs.resume(tmp_path / "cut" / "run")
    assert runs.result(resumed)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    for directory in (whole, resumed):
        kept = sorted((directory / "sites" / "site-0000").glob("hook.round-*.safetensors"))
        assert [float(load_file(path)["seen/rounds"]) for path in kept][-2:] == [2.0, 3.0]


def test_run_fails_if_no_site_trained_anything(tmp_path: Path) -> None:
    still = {"generator": {"epochs": 0}, "mapping": {"epochs": 0}, "task": {"epochs": 0}}
    with pytest.raises(RunError, match=r"no site trained anything in 3 rounds; sites\.jsonl shows their replies"):
        runs.run(tmp_path, runs.settings(local=still))
    assert runs.result(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "model").exists()


def test_run_below_the_quorum_fails_with_the_reason_of_each_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("the disk is on fire")

    monkeypatch.setattr("client.app.train_locally", broken)
    with pytest.raises(RunError, match=r"round 1 failed 3 times: 0 of 3 sites answered.*the disk is on fire"):
        runs.run(tmp_path, runs.settings())
    assert "disk is on fire" in runs.result(tmp_path / "run")["error"]


def test_failing_site_is_recorded_and_the_round_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = client.app.train_locally

    def broken(job: Any, modules: Any) -> Any:
        if job.site == "site-0001":
            raise ValueError("no data today")
        return original(job, modules)

    monkeypatch.setattr("client.app.train_locally", broken)
    directory = runs.run(tmp_path, runs.settings(rounds=1))
    failed = [line for line in runs.lines(directory, "sites.jsonl") if line["status"] == "failed"]
    assert [line["site"] for line in failed] == ["site-0001"]
    assert "no data today" in failed[0]["reason"]


@pytest.mark.parametrize("recovery", ["mask", "fedrecon"])
def test_evaluation_at_the_sites_equals_evaluation_at_the_server(recovery: str, tmp_path: Path) -> None:
    """Masks are drawn per sample, so the place of evaluation changes only the order of the samples."""
    raw = runs.settings(recovery={"name": recovery}, missing={"train": {"level": "sample", "rate": 0.3}})
    central = runs.run(tmp_path / "server", raw)
    spread = runs.run(tmp_path / "sites", {**raw, "evaluate": {"where": "sites"}})
    for mine, theirs in zip(runs.lines(central, "metrics.jsonl"), runs.lines(spread, "metrics.jsonl"), strict=True):
        assert mine["n"] == theirs["n"]
        if mine["split"] != "train":
            assert mine["accuracy"] == pytest.approx(theirs["accuracy"])
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_fedrecon_with_weight_zero_equals_mask(tmp_path: Path) -> None:
    zero = runs.run(tmp_path / "zero", runs.settings(recovery={"name": "fedrecon", "weight": 0}))
    mask = runs.run(tmp_path / "mask", runs.settings(recovery={"name": "mask"}))
    assert runs.result(zero)["parameters_sha256"] == runs.result(mask)["parameters_sha256"]
    for mine, theirs in zip(runs.lines(zero, "sites.jsonl"), runs.lines(mask, "sites.jsonl"), strict=True):
        assert (mine["groups_down"], mine["groups_up"]) == (theirs["groups_down"], theirs["groups_up"])


# --- absent data never reach a model ----------------------------------------------------------------------------------


@pytest.fixture
def fresh() -> Iterator[None]:
    """Close all data sets before and after the test."""
    runs.forget()
    yield
    runs.forget()


def poisoned(monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
    """Patch the toy data set: NaN for every value that no mask of any split shows."""
    loader = DATASETS.get("toy")
    original = loader.load

    def load(self: Any, params: Any, root: Any, seed: int) -> Any:
        dataset = original(self, params, root, seed)
        allocation = allocate(dataset, config)
        shown = np.zeros((len(dataset.labels), len(dataset.spec.names)), dtype=bool)
        for shares in (allocation.train, allocation.validation, allocation.test):
            for share in shares.values():
                np.logical_or.at(shown, share.samples, share.present)
        assert not shown.all()
        for column, name in enumerate(dataset.spec.names):
            for row in dataset.rows[name][~shown[:, column]]:
                offsets = dataset.offsets.get(name)
                place = slice(offsets[row], offsets[row + 1]) if offsets is not None else row
                dataset.arrays[name][place] = np.nan
        return dataset

    monkeypatch.setattr(loader, "load", load)
    runs.forget()


LEVELS = [
    {"level": "sample", "rate": 0.5},
    {"level": "site", "rate": 0.5},
]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("train", LEVELS, ids=lambda level: level["level"])
@pytest.mark.parametrize("recovery", ["fedrecon", "mask", "mean", "uniform", "zero"])
def test_nan_in_every_absent_value_of_all_splits_changes_nothing(
    recovery: str, train: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = {"level": "sample", "rate": 0.5}
    missing = {"train": train, "validation": level, "test": level}
    raw = runs.settings(recovery={"name": recovery}, missing=missing, rounds=2)
    clean = runs.run(tmp_path / "clean", raw)
    poisoned(monkeypatch, load_config(clean / "config.yaml"))
    assert runs.outcome(runs.run(tmp_path / "poisoned", raw)) == runs.outcome(clean)


@pytest.mark.usefixtures("fresh")
def test_oracle_fails_on_poisoned_absent_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = runs.settings(recovery={"name": "oracle"}, rounds=2)
    clean = runs.run(tmp_path / "clean", raw)
    poisoned(monkeypatch, load_config(clean / "config.yaml"))
    with pytest.raises(RunError, match="contains NaN"):
        runs.run(tmp_path / "poisoned", raw)


def test_all_recoveries_but_the_oracle_are_tested_with_poison() -> None:
    tested = {"fedrecon", "mask", "mean", "uniform", "zero"}
    assert {name for name, cls in RECOVERIES.items() if not cls.reads_absent} == tested


def test_manifest_describes_the_run(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["device"] == choose_device("auto").type
    assert manifest["full_bytes"] == 4 * sum(manifest["parameters"].values())
    assert [site["name"] for site in manifest["sites"]] == ["site-0000", "site-0001", "site-0002"]
    assert set(manifest["effective_missing"]) == {"train", "validation", "test"}


def test_strategies_are_registered_by_name() -> None:
    assert {"fedavg", "fedopt"} <= set(STRATEGIES.names())


# --- a run that is killed at any moment -------------------------------------------------------------------------------

CONFIG = {
    "name": "killed",
    "rounds": 6,
    "data": {"name": "polydigits", "modalities": 2, "tuples": 1},
    "sites": {"count": 3},
    "missing": {split: {"level": "sample", "rate": 0.3} for split in ("train", "validation", "test")},
    "recovery": {
        "name": "fedrecon",
        "latent": 4,
        "warmup_rounds": 1,
        "mapping": {"hidden": [8]},
        "ggfs": {"refresh": "deployment"},  # state that each site keeps on disk influences all later rounds
    },
    "strategy": {"name": "fedopt", "momentum": 0.9},
    "task": {"width": 8, "hidden": 8},
    "local": {"generator": {"batch": 256}, "mapping": {"batch": 256}, "task": {"batch": 256}},
}


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).parent / "fedrecon", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def metrics(directory: Path) -> list[dict]:
    return runs.without_clock(runs.lines(directory, "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The config, the directory of the run that was never killed, and how long it took."""
    base = tmp_path_factory.mktemp("whole")
    config = runs.write(base, CONFIG)
    began = time.monotonic()
    assert start(str(config), "--out", str(base / "run")).wait() == 0
    assert len(list((base / "run" / "sites").glob("*/frozen.round-*.safetensors"))) == CONFIG["sites"]["count"]
    return config, base / "run", time.monotonic() - began


def completed(directory: Path) -> bool:
    return (directory / "result.json").exists() and runs.result(directory)["status"] == "completed"


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check_resumed(config: Path, expected: Path, out: Path) -> None:
    """Resume the killed run, or start it if it had not begun; compare its result with the uninterrupted run."""
    if not completed(out):
        resumable = (out / "config.yaml").exists()
        again = start("--resume", "--out", str(out)) if resumable else start(str(config), "--out", str(out))
        assert again.wait() == 0
    assert runs.result(out)["parameters_sha256"] == runs.result(expected)["parameters_sha256"]
    assert runs.result(out)["test"] == runs.result(expected)["test"]
    assert metrics(out) == metrics(expected)


@pytest.mark.faults
@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_killed_run_is_resumed_to_the_same_bytes(whole, tmp_path, rounds):
    """The kill hits a training site, whose state of the next round is or is not yet written."""
    config, expected, _ = whole
    process = start(str(config), "--out", str(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    wait_until(f"{rounds} rounds are over", lambda: newest_round(checkpoints) >= rounds, process)
    kill(process)
    assert not completed(tmp_path / "run")
    check_resumed(config, expected, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.slow
def test_run_killed_at_twenty_random_moments_is_resumed_to_the_same_bytes(whole, tmp_path):
    config, expected, seconds = whole
    draw = random.Random(0)
    for number in range(20):
        process = start(str(config), "--out", str(tmp_path / str(number)))
        time.sleep(draw.uniform(0.05, 1.0) * seconds)
        kill(process)
        check_resumed(config, expected, tmp_path / str(number))


@pytest.mark.faults
def test_run_without_its_newest_checkpoint_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """The server dies after round 4 at the sites; its checkpoint of round 3 is damaged, so round 3 is repeated."""
    monkeypatch.setattr(FedAvg, "local_half", staticmethod(lambda params: Momentum()))
    raw = runs.settings(rounds=4, local={"task": {"optimizer": "sgd", "lr": 0.01}})
    whole = runs.run(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        stop_in(4, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "cut", raw)
    cut = tmp_path / "cut" / "run"
    newest = cut / "checkpoints" / "round-000003"
    (newest / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"round-000003 cannot be read: .*; remove it to resume from the previous one"):
        runs.resume(cut)
    shutil.rmtree(newest)
    assert runs.result(runs.resume(cut))["parameters_sha256"] == runs.result(whole)["parameters_sha256"]

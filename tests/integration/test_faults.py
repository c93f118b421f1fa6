"""Faults of a site and of a disk: nothing is lost, wrong replies are rejected, and no wait is endless.

Six sites with their own folders run through the real apps in one process. ``pytest -s`` prints a table: the fault, its
message, the line in ``sites.jsonl``, and the duration of the round.
"""

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import client.app
from client.site_store import DiskSiteStore
from fedrecon_core.data.site_data import open_site
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.errors import ConfigError, DataError, RunError
from fedrecon_core.inference import load_model, save_model
from fedrecon_core.local.evaluate import Predictions
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import State, read_group
from server.engines.base import Job
from server.federation import messaging, registry
from server.runs.directory import RunDirectory, newest_round
from server.runs.setup import create_run
from server.training.checkpoints import Training, load_newest, save
from server.training.evaluation import write_predictions
from strategies import messages
from tests.helpers.folders import content
from tests.helpers.processes import Clock, files_end_at
from tests.helpers.runs import SiteGrid, deploy, lines, node_configs, result, settings, split_sites, write
from tests.helpers.toy import tiny_dataset, toy_recovery

pytestmark = pytest.mark.faults

BAD = "site-0005"
OTHERS = [f"site-{number:04d}" for number in range(5)]
TIMEOUT = 1.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    level = {"level": "sample", "rate": 0.2}
    raw = settings(
        recovery={"name": "mask"},
        sites={"count": 6},
        data={"name": "toy", "train": 240},
        missing={"train": level, "validation": level, "test": level},
    )
    return split_sites(write(tmp_path_factory.mktemp("split"), raw))


def prepared(folders: Path, out: Path, *changes: str) -> Any:
    changes = ("engine.name=deployment", "sites.wait=2", "sites.min=5", "rounds=4", *changes)
    return create_run(folders / "federation.yaml", changes, out=out)


def of_bad(directory: Path) -> dict[int, dict]:
    """Round -> its last line of the bad site."""
    return {line["round"]: line for line in lines(directory) if line["site"] == BAD}


def print_row(fault: str, output: str, directory: Path, round_: int = 2) -> None:
    """Print the row of the table."""
    read = next((line for line in output.splitlines() if BAD in line and f"round {round_}:" in line), "(nothing)")
    line = of_bad(directory).get(round_, {})
    seconds = next(r["train_seconds"] for r in lines(directory, "metrics.jsonl") if r["round"] == round_)
    kept = {key: line.get(key) for key in ("status", "reason")} if line else "no line: it was not asked"
    print(f"\n{fault}\n  read: {read}\n  sites.jsonl: {kept}\n  the round took {seconds:.2f} s")


# --- a site that sends rubbish from round 2 on -----------------------------------------------------------------------


def tampered(monkeypatch, change: Any) -> None:
    """From round 2 on, apply ``change`` to each result of the bad site."""
    original = client.app.train_locally

    def train(job, modules):
        found = original(job, modules)
        return change(found) if job.site == BAD and job.global_info.round >= 2 else found

    monkeypatch.setattr(client.app, "train_locally", train)


def each_tensor(found, change):
    groups = {g: {name: change(tensor) for name, tensor in state.items()} for g, state in found.groups.items()}
    return replace(found, groups=groups)


def raises(found):
    raise ValueError("the [/disk] is on fire")


INVALID = {
    "raises": (raises, r"ValueError: the \[/disk\] is on fire"),
    "NaN": (lambda found: each_tensor(found, lambda t: t * float("nan")), "contains NaN or infinity"),
    "wrong shapes": (lambda found: each_tensor(found, lambda t: t[..., :1]), "expected float32"),
    "an unknown group": (
        lambda found: replace(found, groups={**found.groups, "task.extractor.x": {"w": torch.ones(1)}}),
        "uploaded task.extractor.x, which its transfer plan does not contain",
    ),
    "no group beside its counts": (lambda found: replace(found, groups={}), "expected task.extractor.*found none"),
    "negative counts": (
        lambda found: replace(found, counts=dict.fromkeys(found.counts, -3)),
        "expected a count above 0 with an upload, found -3",
    ),
    "counts above its samples": (
        lambda found: replace(found, counts=dict.fromkeys(found.counts, 10**9)),
        "training samples, found 1000000000",
    ),
    "a 1e30-scaled update": (
        lambda found: each_tensor(found, lambda t: t * 1e30),
        r"an update of norm .*e\+3\d, more than 20 times .*, the median of 6 sites",
    ),
}


@pytest.mark.parametrize("fault", INVALID)
def test_invalid_reply_is_rejected_with_a_reason_and_the_round_continues(folders, tmp_path, capsys, monkeypatch, fault):
    change, words = INVALID[fault]
    tampered(monkeypatch, change)
    deploy(prepared(folders, tmp_path / "run"), node_configs(folders, tmp_path / "state"))
    output = capsys.readouterr().out
    with capsys.disabled():
        print_row(fault, output, tmp_path / "run")
    assert re.search(rf"round 2: 5 of 6 sites answered; {BAD}: .*{words}", output)
    found = of_bad(tmp_path / "run")
    assert [found[round_]["status"] for round_ in range(1, 5)] == ["ok", "failed", "failed", "failed"]
    assert re.search(words, found[2]["reason"])
    assert result(tmp_path / "run")["status"] == "completed"


# --- a site that is silent -------------------------------------------------------------------------------------------


class SlowGrid(SiteGrid):
    """A grid that delays the bad site's training reply of round 2 by ``seconds``."""

    def __init__(self, job: Job, configs: Any, seconds: float, clock: Clock) -> None:
        super().__init__(job, configs)
        self._late, self._clock = seconds, clock
        self._held: dict[str, float] = {}
        self.dropped: list[str] = []

    def push_messages(self, sent):
        sent = list(sent)
        ids = super().push_messages(sent)
        for key, message in zip(ids, sent, strict=True):
            instruction = messages.read_instruction(message.content)
            if (
                instruction.site == BAD
                and instruction.round == 2
                and message.metadata.message_type == messages.LOCAL_TYPE
            ):
                self._held[key] = self._clock.now + self._late
        return ids

    def pull_messages(self, ids):
        return super().pull_messages([key for key in ids if self._held.get(key, 0) <= self._clock.now])

    def forget(self, ids):
        self.dropped += ids
        super().forget(ids)


@pytest.mark.parametrize(("fault", "seconds"), [("answers after the deadline", 2 * TIMEOUT), ("never answers", 1e9)])
def test_silent_site_delays_one_round_and_its_late_reply_is_ignored(
    folders, tmp_path, capsys, monkeypatch, fault, seconds
):
    clock = Clock()
    for module in (messaging, registry):
        monkeypatch.setattr(module, "time", clock)
    new = lambda job, configs, _: SlowGrid(job, configs, seconds, clock)  # noqa: E731
    monkeypatch.setattr("tests.helpers.runs.SiteGrid", new)
    run = prepared(folders, tmp_path / "run", f"sites.timeout={TIMEOUT}")
    grid = deploy(run, node_configs(folders, tmp_path / "state"))
    output = capsys.readouterr().out
    with capsys.disabled():
        print_row(fault, output, tmp_path / "run")
    assert f"round 2: 5 of 6 sites answered; {BAD}: no answer in 1 s" in output
    assert [line["status"] for line in of_bad(tmp_path / "run").values()] == ["ok", "failed", "ok", "ok"]
    assert TIMEOUT <= clock.now - Clock().now < 2 * TIMEOUT  # nothing else waits
    assert len(grid.dropped) == 1


# --- sites that come, go, and are not what they were -----------------------------------------------------------------


def test_site_with_other_code_is_rejected(folders, tmp_path, capsys, monkeypatch):
    codes = {"describe": {BAD: "0ld"}, "local": {"site-0004": "new"}}
    right, asked = client.app.code_hash(), []

    def code_hash(*_: object) -> str:
        return codes.get(*asked[-1:], {}).get(asked_site[-1], right) if asked else right

    asked_site: list[str] = []
    original = client.app._site

    def site(message, context):
        found = original(message, context)
        instruction = messages.read_instruction(message.content)
        changed = instruction.round >= 2 and message.metadata.message_type == messages.LOCAL_TYPE
        asked.append("local" if changed else "describe" if instruction.round == 0 else "nothing")
        asked_site.append(found.name)
        return found

    monkeypatch.setattr(client.app, "_site", site)
    monkeypatch.setattr(client.app, "code_hash", code_hash)
    run = prepared(folders, tmp_path / "run", "sites.min=4")
    deploy(run, node_configs(folders, tmp_path / "state"))
    output = capsys.readouterr().out
    assert f"site {BAD} runs other code: expected code hash {right}, found 0ld" in output
    assert of_bad(tmp_path / "run") == {}
    assert (
        "round 2: 4 of 5 sites answered; site-0004: reply rejected: the site's code changed during the run: " in output
    )
    assert result(tmp_path / "run")["status"] == "completed"


def test_site_that_joins_in_round_3_trains_from_then_on(folders, tmp_path, capsys):
    def connected(names):
        return names if newest_round(tmp_path / "run" / "checkpoints") >= 2 else [n for n in names if n != BAD]

    deploy(prepared(folders, tmp_path / "run"), node_configs(folders, tmp_path / "state"), connected)
    output = capsys.readouterr().out
    with capsys.disabled():
        print_row("joins in round 3", output, tmp_path / "run", 3)
    assert f"round 3: site {BAD} joined" in output
    assert {round_: line["status"] for round_, line in of_bad(tmp_path / "run").items()} == {3: "ok", 4: "ok"}


def test_run_fails_after_the_wait_if_all_sites_leave(folders, tmp_path, monkeypatch):
    def connected(names):
        return names if newest_round(tmp_path / "run" / "checkpoints") < 1 else []

    clock = Clock()
    monkeypatch.setattr(registry, "time", clock)
    with pytest.raises(RunError, match=r"round 2: 0 of at least 5 sites connected within 2 s .*: none; start"):
        deploy(prepared(folders, tmp_path / "run"), node_configs(folders, tmp_path / "state"), connected)
    assert 2 <= clock.now - Clock().now < 4  # sites.wait
    assert result(tmp_path / "run")["status"] == "failed"
    assert result(tmp_path / "run")["rounds"] == 1  # kept for a resume


# --- a poisoned run --------------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(folders, tmp_path, monkeypatch):
    """A function that runs with changed replies of the bad site; it returns the last validation accuracy and result."""
    received: dict[str, Any] = {}

    def remembering(train: Any) -> Any:
        return lambda job, modules: (received.update(job.received), train(job, modules))[1]

    def run(name: str, change: Any, *settings: str) -> tuple[float, dict]:
        with monkeypatch.context() as patch:
            tampered(patch, lambda found: change(found, received))
            patch.setattr(client.app, "train_locally", remembering(client.app.train_locally))
            deploy(prepared(folders, tmp_path / name, "rounds=6", *settings), node_configs(folders, tmp_path / "state"))
        return lines(tmp_path / name, "metrics.jsonl")[-2]["accuracy"], result(tmp_path / name)

    return run


def backwards(found, received):
    """The site's update times -100."""
    groups = {
        g: {n: received[g][n] - 100 * (t - received[g][n]) for n, t in s.items()} for g, s in found.groups.items()
    }
    return replace(found, groups=groups)


def test_validation_removes_all_influence_of_a_poisoned_update(poisoned):
    """The parameters are the same bytes: a rejected update has no influence at all."""
    without, expected = poisoned("without", lambda found, received: raises(found))
    validated, result = poisoned("validated", backwards)
    taken, _ = poisoned("taken", backwards, "updates.limit=null")
    print(
        f"\nlast accuracy: without the poisoner {without:.3f}, with it {validated:.3f}, taken {taken:.3f}; chance 0.333"
    )
    assert result["parameters_sha256"] == expected["parameters_sha256"]
    assert result["test"] == expected["test"]
    assert taken < without - 0.2


@pytest.mark.parametrize("rule", ["median", "trimmed", "krum"])
def test_robust_average_withstands_poison_without_validation(poisoned, rule):
    without, _ = poisoned("without", lambda found, received: raises(found))
    robust, _ = poisoned("robust", backwards, "updates.limit=null", f"strategy.robust={{rule: {rule}}}")
    print(f"\nlast accuracy: without the poisoner {without:.3f}, {rule} with it {robust:.3f}; chance 0.333")
    assert robust > 0.4  # krum takes the model of one site, which is weaker than an average


def test_robust_average_is_refused_if_too_few_sites_can_send_a_group(folders, tmp_path):
    run = prepared(folders, tmp_path / "run", "strategy.robust={rule: krum, malicious: 2}")
    with pytest.raises(ConfigError, match=r"krum needs 7 sites per group, but only 6 can send task\."):
        deploy(run, node_configs(folders, tmp_path / "state"))
    run = prepared(folders, tmp_path / "half", "strategy.robust={rule: median}", "sites.fraction=0.4")
    with pytest.raises(ConfigError, match=r"median needs 3 sites per group, but only 2 can send task\."):
        deploy(run, node_configs(folders, tmp_path / "state"))


def test_group_sent_by_too_few_sites_is_unchanged_and_reported(folders, tmp_path, capsys, monkeypatch):
    tampered(monkeypatch, raises)
    run = prepared(folders, tmp_path / "run", "rounds=2", "strategy.robust={rule: trimmed, trim: 0.17}")
    deploy(run, node_configs(folders, tmp_path / "state"))
    output = capsys.readouterr().out
    assert "round 2: task.head stays unchanged: trimmed needs 6 sites, only 5 sent it" in output
    assert "round 1: task.head" not in output


# --- a full disk ------------------------------------------------------------------------------------------------------

FULL = "(No space left|File too large)"
BYTES = 2 * 1024 * 1024


@dataclass
class Disk:
    """A folder on a disk with 2 MB in the context ``small`` and (nearly) no space in ``full``. The contexts end within
    the test, because pytest's own output may go to a file, too."""

    path: Path
    small: Callable[[], AbstractContextManager[object]]
    full: Callable[[], AbstractContextManager[object]]


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[Disk]:
    """A file system of 2 MB."""
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("no right to mount a small file system here; the same is tested with limited files")

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        with (path / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"0" * 4096):
                pass
        yield
        (path / "filler").unlink()

    try:
        yield Disk(path, contextlib.nullcontext, full)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def limited(path: Path) -> Iterator[Disk]:
    """No file larger than 2 MB, or 512 bytes once the disk is full; needs no right to mount."""
    yield Disk(path, lambda: files_end_at(BYTES), lambda: files_end_at(512))


@pytest.fixture(params=[mounted, limited])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with request.param(tmp_path) as found:
        yield found


def training(round_: int, numbers: int) -> Training:
    return Training(round=round_, groups={"task.head": {"weight": torch.arange(numbers, dtype=torch.float32)}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_last_checkpoint_is_kept_if_the_disk_is_full(disk):
    save(disk.path / "checkpoints", training(1, 100_000))
    words = rf"cannot write checkpoint .*round-000002: .*{FULL}.*the previous checkpoint is kept.*--resume"
    with disk.small(), pytest.raises(RunError, match=words):
        save(disk.path / "checkpoints", training(2, 600_000))
    kept = load_newest(disk.path / "checkpoints")
    assert kept is not None
    assert kept.round == 1
    assert names(disk.path / "checkpoints") == ["round-000001"]
    save(disk.path / "checkpoints", training(2, 100))
    assert load_newest(disk.path / "checkpoints").round == 2


def test_full_disk_is_reported_and_a_partial_metrics_line_is_dropped_on_resume(disk):
    directory = RunDirectory(disk.path)
    directory.append("metrics.jsonl", [{"round": 1, "split": "train"}])
    with disk.full(), pytest.raises(RunError, match=rf"cannot write .*metrics\.jsonl: {FULL}"):
        directory.append("metrics.jsonl", [{"round": 2, "split": "train", "text": "x" * 8192}])
    directory.drop_rounds_after("metrics.jsonl", 1)
    assert (disk.path / "metrics.jsonl").read_text() == '{"round": 1, "split": "train"}\n'


def test_site_state_keeps_its_versions_if_the_disk_is_full(disk):
    state = disk.path / "state"
    DiskSiteStore(state, 1).save("memory", {"a": {"x": torch.ones(10)}})
    with (
        disk.full(),
        pytest.raises(DataError, match=rf"state folder .* cannot be written: .*{FULL}.*; free disk space, or correct"),
    ):
        DiskSiteStore(state, 2).save("memory", {"a": {"x": torch.ones(10_000)}})
    assert torch.equal(DiskSiteStore(state, 2).load("memory")["a"]["x"], torch.ones(10))
    assert names(state) == ["memory.round-000001.safetensors"]


def test_earlier_model_is_kept_if_the_disk_is_full(disk):
    recovery = toy_recovery("mask")
    model: dict[str, State] = {name: read_group(module) for name, module in recovery.build().items()}
    trained = GlobalInfo(3, dict.fromkeys(model, 5))
    save_model(disk.path / "model", model, recovery, trained)
    with (
        disk.full(),
        pytest.raises(RunError, match=rf"cannot write the model .*/model: .*{FULL}.*; free disk space .*, then resume"),
    ):
        save_model(disk.path / "model", model, recovery, GlobalInfo(4, dict.fromkeys(model, 9)))
    assert names(disk.path / "model") == ["model.safetensors", "model.yaml"]
    assert load_model(disk.path).global_info.round == 3


def test_earlier_predictions_are_kept_if_the_disk_is_full(disk):
    dataset, path = tiny_dataset(400, 100), disk.path / "predictions.parquet"
    members = dataset.members(0)
    data = open_site(dataset, members, dataset.exists()[members], device=torch.device("cpu"))
    predictions = Predictions(logits=torch.rand(len(data), 3))
    write_predictions(path, data, predictions)
    with (
        disk.full(),
        pytest.raises(RunError, match=rf"cannot write .*predictions\.parquet: .*{FULL}.*; free disk space"),
    ):
        write_predictions(path, data, predictions)
    assert names(disk.path) == ["predictions.parquet"]
    assert pq.read_table(path).num_rows == len(data)


def test_specification_is_kept_if_the_disk_is_full_while_sealing(disk):
    folder = disk.path / "north"
    write_folder(folder, content(tiny_dataset(12, 8)))
    written = "# by hand\n" + (folder / "dataset.yaml").read_text()
    (folder / "dataset.yaml").write_text(written)
    with disk.full():
        [fault] = seal_folder(folder)
    assert "cannot be sealed" in fault
    assert "dataset.yaml was not changed" in fault
    assert (folder / "dataset.yaml").read_text() == written
    assert check_folder(folder) == []

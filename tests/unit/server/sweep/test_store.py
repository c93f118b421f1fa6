"""The directory of a sweep, and the notes of fedrecon sweep on existing results."""

import os
import shutil
from importlib.metadata import version

import pytest
import yaml
from rich.console import Console

from fedrecon_core.errors import DataError, RunError, UsageError
from server.commands.sweep import Plan, available_cores, print_notes
from server.sweep.record import State, read_sweep
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from strategies.code_hash import code_hash
from tests.helpers.processes import files_end_at
from tests.helpers.sweeps import begin_round, end_run, write_sweep
from tests.helpers.toy import toy_settings

TODAY = {"device": "cpu", "versions": {"torch": version("torch"), "numpy": "1.0"}}


def test_states_of_a_trial(sweep):
    _, (trial, *_), directory = sweep
    assert directory.state(trial) is State.MISSING
    run = directory.begin(trial)
    assert directory.state(trial) is State.UNFINISHED
    end_run(run, "interrupted")
    assert directory.state(trial) is State.UNFINISHED
    end_run(run, "failed")
    assert directory.state(trial) is State.FAILED
    end_run(run)
    assert directory.state(trial) is State.COMPLETE
    run.result.write_text("{")
    assert directory.state(trial) is State.UNFINISHED


def test_a_retry_writes_the_present_data_root_and_removes_the_result(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    raw = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**raw, "data": {**raw["data"], "root": "/elsewhere"}}))
    end_run(run, "failed")
    assert directory.state(trial) is State.FAILED
    directory.begin(trial)
    assert yaml.safe_load(run.config.read_text())["data"]["root"] is None
    assert not run.result.exists()


def test_a_folder_with_another_config_is_refused(sweep):
    _, (trial, other, *_), directory = sweep
    run = directory.begin(trial)
    run.config.write_text(other.config.to_yaml())
    with pytest.raises(
        UsageError, match=r"expected the config of the trial recovery=mask, seed=0, found the config of an"
    ):
        directory.state(trial)


def test_a_run_whose_config_lacks_newer_keys_is_recognised(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    end_run(run)
    raw = yaml.safe_load(run.config.read_text())
    del raw["updates"]
    run.config.write_text(yaml.safe_dump(raw))
    run.path.rename(run.path.with_name(f"{trial.slug}-0123456789"))
    again = SweepDirectory(directory.path)
    assert again.state(trial) is State.COMPLETE
    assert again.run_of(trial).path.name == "mask-seed0-0123456789"
    assert again.unknown_runs([trial]) == []


def test_run_directories_of_no_trial_are_listed(sweep):
    _, (first, *others), directory = sweep
    for trial in (first, *others):
        directory.begin(trial)
    assert directory.unknown_runs(others) == [first.folder]
    assert directory.unknown_runs([first, *others]) == []


@pytest.mark.parametrize(("keep", "left"), [(False, False), (True, True)])
def test_checkpoints_of_complete_trials_are_deleted_unless_kept(sweep, keep, left):
    _, (trial, *_), directory = sweep
    directory = SweepDirectory(directory.path, keep)
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.model.mkdir()
    directory.tidy(trial)
    assert run.checkpoints.exists()  # there is something to resume
    end_run(run)
    directory.tidy(trial)
    assert (run.checkpoints.exists(), run.model.exists()) == (left, True)


def test_checkpoints_without_a_config_are_deleted(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.config.unlink()
    assert directory.state(trial) is State.MISSING
    directory.begin(trial)
    assert not run.checkpoints.exists()


def test_locking_finishes_an_interrupted_copy_back(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    run.path.rename(run.path.with_name(f".{run.path.name}.old"))
    assert directory.state(trial) is State.MISSING
    with directory.lock():
        assert directory.state(trial) is State.UNFINISHED


def test_rounds_of_other_code_are_not_resumed(sweep):
    _, (first, second, *_), directory = sweep
    old, today = begin_round(directory, first, "0" * 64), begin_round(directory, second, code_hash())
    for run in (old, today):
        run.write_json("tracking.json", {"mlflow": {"round": 1, "memory": {"run_id": "ab"}}})
    assert [directory.outdated(trial) for trial in (first, second)] == [
        f"by other code (0000000000, now {code_hash()[:10]})",
        "",
    ]
    for trial in (first, second):
        directory.begin(trial)
    assert (old.checkpoints.exists(), today.checkpoints.exists()) == (False, True)
    assert (old.read_json("tracking.json"), bool(today.read_json("tracking.json"))) == ({}, True)
    begin_round(directory, first, "0" * 64)
    end_run(old)
    assert not directory.outdated(first)  # complete: its numbers are those of one code


def test_rounds_are_kept_while_their_device_is_missing(sweep):
    """Without the device that the config asks for, nothing can be run, and nothing is deleted."""
    _, (trial, *_), directory = sweep
    begin_round(directory, trial, code_hash(), device="cuda")
    for device, outdated in ((None, False), ("cuda", False), ("cpu", True)):
        there = SweepDirectory(directory.path, device=lambda _, found=device: found)
        assert bool(there.outdated(trial)) == outdated


def test_a_trial_completed_meanwhile_is_not_started(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    end_run(run)
    assert directory.begin(trial).completed()


def test_provenance_changes_of_a_complete_trial(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    assert directory.provenance_changes(trial) == []
    run.write_json("manifest.json", {"code_sha256": code_hash(), **TODAY})
    assert directory.provenance_changes(trial) == []
    made = {"code_sha256": "0" * 64, "device": "cuda", "versions": {"torch": "1.13.1", "numpy": "1.0"}}
    run.write_json("manifest.json", made)
    raw = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**raw, "data": {**raw["data"], "root": "/elsewhere"}}))
    assert directory.provenance_changes(trial) == [
        f"by other code (0000000000, now {code_hash()[:10]})",
        "on cuda (here: cpu)",
        f"with PyTorch 1.13.1 (here: {version('torch')})",
        "with data.root /elsewhere (now: unset)",
    ]


def test_a_complete_trial_without_a_report_gets_one(sweep):
    _, (trial, other, *_), directory = sweep
    run = directory.begin(trial)
    directory.tidy(trial)
    assert not (run.path / "report.html").exists()  # it is not complete
    end_run(run)
    directory.tidy(trial)
    report = run.path / "report.html"
    assert "<html" in report.read_text()
    report.write_text("mine")
    directory.tidy(trial)
    assert report.read_text() == "mine"
    bare = directory.run_of(other)
    end_run(bare)
    with files_end_at(2000):
        directory.tidy(other)
    note = f"(report.html could not be written: cannot write {bare.path / 'report.html'}: File too large"
    assert note in directory.log(other).read_text()


def test_sweep_yaml_contains_no_data_root(tmp_path):
    (tmp_path / "data").mkdir()
    root = str(tmp_path / "data")
    axes = {"level": {"a": {"data": {"root": root}}, "b": {"data": {"root": root, "train": 24}}}}
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), axes=axes, set={"data.root": root}))
    settings = [f"data={{name: toy, root: {root}}}", f"data.root={root}", "rounds=3"]
    directory = SweepDirectory(tmp_path / "out")
    directory.runs.mkdir(parents=True)
    directory.record(definition, build_trials(definition, tmp_path), settings)
    written = (directory.path / "sweep.yaml").read_text()
    assert str(tmp_path) not in written
    found = yaml.safe_load(written)
    assert found["set"] == ["data={name: toy}", "rounds=3"]
    assert found["levels"]["level"] == {"a": {"set": []}, "b": {"set": ["data.train=24"]}}


def test_published_values_are_copied_byte_for_byte(tmp_path):
    content = "\ufeffrecovery,metric,value,source\r\nmask,uar,50,Müller\r\n".encode()  # as Excel writes it
    path = write_sweep(tmp_path, toy_settings("mask"), table={"reference": "published.csv"})
    (tmp_path / "published.csv").write_bytes(content)
    definition, directory = read_definition(path), SweepDirectory(tmp_path / "out")
    directory.path.mkdir()
    directory.record(definition, build_trials(definition, tmp_path), [])
    assert (directory.path / "reference.csv").read_bytes() == content
    assert read_sweep(directory.path).table == {"reference": "reference.csv"}
    (tmp_path / "published.csv").unlink()
    with pytest.raises(RunError, match=r"cannot copy .*published\.csv to .*reference\.csv: No such file"):
        directory.record(definition, build_trials(definition, tmp_path), [])


def test_two_commands_cannot_run_one_sweep(sweep):
    _, _, directory = sweep
    words = (
        rf"^the sweep in {directory.path} is in use by process \d+ on .*; end that process, then give the same command"
    )
    with directory.lock(), pytest.raises(RunError, match=words), directory.lock():
        pass


def test_a_directory_that_cannot_be_written_is_one_clear_line(sweep):
    _, _, directory = sweep
    (directory.path / "run.lock").mkdir(parents=True)
    advice = "free disk space or correct the permissions of the sweep directory, then give the"
    words = rf"cannot write .*/run\.lock: Is a directory; {advice}"
    with pytest.raises(UsageError, match=words), directory.lock():
        pass


def test_a_copied_sweep_is_read_back(sweep, tmp_path):
    definition, trials, directory = sweep
    for trial, status in zip(trials, ("completed", "failed", None), strict=False):
        run = directory.begin(trial)
        if status:
            end_run(run, status)
    directory.record(definition, trials, ["rounds=3"])
    first = (directory.path / "sweep.yaml").read_bytes()
    directory.record(definition, trials, ["rounds=3"])
    assert (directory.path / "sweep.yaml").read_bytes() == first
    assert str(tmp_path) not in first.decode()
    copy = tmp_path / "copy"
    shutil.copytree(directory.path, copy)
    found = read_sweep(copy)
    assert (found.name, found.parameters) == ("tiny", {"recovery": ["mask", "zero"], "seed": ["0", "1"]})
    assert found.table == {"rows": ["recovery"], "metrics": ["uar"]}
    assert [trial.status for trial in found.trials] == ["complete", "failed", "unfinished", "missing"]
    assert found.trials[1].labels == {"recovery": "mask", "seed": "1"}
    assert [trial.directory for trial in found.trials] == [copy / "cells" / trial.folder for trial in trials]


def test_the_directory_of_another_sweep_is_refused(sweep):
    definition, trials, directory = sweep
    directory.begin(trials[0])
    directory.record(definition, trials, [])
    before = (directory.path / "sweep.yaml").read_bytes()
    other = definition.model_copy(update={"name": "other"})
    with pytest.raises(UsageError, match=r"--out .* holds the sweep 'tiny', and this one is 'other'; choose another"):
        directory.record(other, trials, [])
    assert (directory.path / "sweep.yaml").read_bytes() == before
    (directory.path / "sweep.yaml").write_text("[")
    directory.record(other, trials, [])
    assert read_sweep(directory.path).name == "other"


def test_a_directory_without_a_valid_sweep_yaml_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match=r"a directory written by `fedrecon sweep`, found no sweep\.yaml in it"):
        read_sweep(tmp_path)
    for text in ("", "[", "name: a\n", "name: a\naxes: {}\ntable: null\ncells: [{}]\n", "a: 2020-99-99", "[" * 100_000):
        (tmp_path / "sweep.yaml").write_text(text)
        with pytest.raises(DataError, match=r"sweep\.yaml is damaged"):
            read_sweep(tmp_path)


# --- notes of the command ---------------------------------------------------------------------------------------------


MADE = {
    "today's": (TODAY, ""),
    "unknown": ({}, ""),
    "damaged": ({"versions": None}, ""),
    "GPU": ({**TODAY, "device": "cuda"}, "on cuda (here: cpu)"),
    "PyTorch": ({**TODAY, "versions": {"torch": "1.13.1"}}, f"with PyTorch 1.13.1 (here: {version('torch')})"),
}


@pytest.mark.parametrize("made", MADE)
def test_rounds_of_another_device_or_pytorch_are_reported_and_start_over(tmp_path, capsys, made):
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), set={"device": "cpu"}))
    trials, directory = build_trials(definition, tmp_path), SweepDirectory(tmp_path / "out")
    manifest, words = MADE[made]
    run = begin_round(directory, trials[0], code_hash(), **manifest)
    assert directory.outdated(trials[0]) == words
    print_notes(Console(), Plan(definition, (), directory, trials, [(trials[0], State.UNFINISHED)]))
    note = f"1 unfinished trial starts over: rounds were computed {words}, and a result must not mix both"
    assert (note in capsys.readouterr().out) == bool(words)
    directory.begin(trials[0])
    assert run.checkpoints.exists() == (not words)


def test_a_part_without_the_baseline_is_noted_until_the_baseline_is_complete(tmp_path, capsys):
    path = write_sweep(tmp_path, toy_settings("mask"), table={"baseline": {"recovery": "mask"}})
    definition, directory = read_definition(path), SweepDirectory(tmp_path / "out")
    trials = build_trials(definition, tmp_path)

    def notes(asked):
        print_notes(
            Console(), Plan(definition, (), directory, trials, [(trial, directory.state(trial)) for trial in asked])
        )
        return capsys.readouterr().out

    assert notes(trials[2:]).startswith("recovery=mask, the baseline of the table, is not selected and not complete: ")
    assert notes(trials) == notes(trials[1:]) == ""
    end_run(directory.begin(trials[0]))
    assert "baseline" not in notes(trials[2:])


def test_a_folder_with_another_config_does_not_affect_other_parts(tmp_path):
    path = write_sweep(tmp_path, toy_settings("mask"), table={"baseline": {"recovery": "mask"}})
    definition, directory = read_definition(path), SweepDirectory(tmp_path / "out")
    trials = build_trials(definition, tmp_path)
    directory.begin(trials[0]).config.write_text(trials[1].config.to_yaml())
    states = [(trial, directory.state(trial)) for trial in trials[2:]]
    print_notes(Console(), Plan(definition, (), directory, trials, states))


def test_the_default_number_of_workers_is_that_of_available_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")  # macOS has none
    assert available_cores() == os.cpu_count()

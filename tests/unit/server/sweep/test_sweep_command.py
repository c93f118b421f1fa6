"""Notes of ``fedrecon sweep`` on existing results, and its default number of workers."""

import os
from importlib.metadata import version

import pytest
from rich.console import Console

from server.commands.sweep import Plan, available_cores, print_notes
from server.sweep.record import State
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from strategies.code_hash import code_hash
from tests.helpers.sweeps import begin_round, end_run, write_sweep
from tests.helpers.toy import toy_settings

TODAY = {"device": "cpu", "versions": {"torch": version("torch"), "numpy": "1.0"}}


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

    assert notes(trials[2:]).startswith(
        "recovery=mask, the baseline of the table, is not in this part and not complete: "
    )
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

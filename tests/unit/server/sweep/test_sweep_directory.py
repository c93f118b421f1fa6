"""What a sweep finds on the disk and leaves there, and which cell it runs next."""

import io
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fedrecon_core.errors import DataError, RunError, UsageError
from server.commands.sweep import Plan, _cores, _notes
from server.sweep.dry_run import estimate, trial_table, try_first
from server.sweep.executor import Ended, LostError, Workers
from server.sweep.progress import Board, LiveBoard, Running, Tally, board_for
from server.sweep.provenance_changes import origins
from server.sweep.record import State, ending, read_sweep
from server.sweep.schedule import Schedule, learn_from_disk
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.times import Times
from server.sweep.trial_run import run_trial
from server.sweep.trials import matrix
from strategies.code_hash import code_hash
from tests.helpers.federation import toy_settings
from tests.helpers.small_disk import files_end_at
from tests.helpers.sweeps import write_sweep

TABLE = {"rows": ["recovery"], "metrics": ["uar"]}


@pytest.fixture
def sweep(tmp_path):
    """(definition, its four cells, its directory)."""
    path = write_sweep(tmp_path, toy_settings("mask"), table=TABLE)
    definition = read_definition(path)
    return definition, matrix(definition, tmp_path), SweepDirectory(tmp_path / "out")


def end(run, status="completed", seconds=4.0):
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("result.json", {"status": status, "error": "it broke", "wall_seconds": seconds})


def test_a_trial_is_missing_then_unfinished_then_failed_then_complete(sweep):
    _, (trial, *_), directory = sweep
    assert directory.state(trial) is State.MISSING
    run = directory.begin(trial)
    assert directory.state(trial) is State.UNFINISHED
    end(run, "interrupted")
    assert directory.state(trial) is State.UNFINISHED
    end(run, "failed")
    assert directory.state(trial) is State.FAILED
    end(run)
    assert directory.state(trial) is State.COMPLETE
    run.result.write_text("{")
    assert directory.state(trial) is State.UNFINISHED


def test_beginning_a_trial_again_takes_the_present_root_and_forgets_the_verdict(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    raw = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**raw, "data": {**raw["data"], "root": "/elsewhere"}}))
    end(run, "failed")
    assert directory.state(trial) is State.FAILED
    directory.begin(trial)
    assert yaml.safe_load(run.config.read_text())["data"]["root"] is None
    assert not run.result.exists()


def test_a_folder_that_holds_another_config_is_not_taken_for_the_trial(sweep):
    _, (trial, other, *_), directory = sweep
    run = directory.begin(trial)
    run.config.write_text(other.config.to_yaml())
    with pytest.raises(
        UsageError, match=r"expected the config of the cell recovery=mask, seed=0, found the config of an"
    ):
        directory.state(trial)


def test_a_run_of_a_time_with_fewer_keys_is_found_by_its_labels(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    end(run)
    raw = yaml.safe_load(run.config.read_text())
    del raw["updates"]
    run.config.write_text(yaml.safe_dump(raw))
    run.path.rename(run.path.with_name(f"{trial.slug}-0123456789"))
    again = SweepDirectory(directory.path)
    assert again.state(trial) is State.COMPLETE
    assert again.run_of(trial).path.name == "mask-seed0-0123456789"
    assert again.strangers([trial]) == []


def test_what_belongs_to_no_trial_is_named_and_stays(sweep):
    _, (first, *others), directory = sweep
    for trial in (first, *others):
        directory.begin(trial)
    assert directory.strangers(others) == [first.folder]
    assert directory.strangers([first, *others]) == []


@pytest.mark.parametrize(("keep", "left"), [(False, False), (True, True)])
def test_checkpoints_of_complete_trials_go_unless_they_are_kept(sweep, keep, left):
    _, (trial, *_), directory = sweep
    directory = SweepDirectory(directory.path, keep)
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.model.mkdir()
    directory.tidy(trial)
    assert run.checkpoints.exists()  # there is something to resume
    end(run)
    directory.tidy(trial)
    assert (run.checkpoints.exists(), run.model.exists()) == (left, True)


def test_checkpoints_of_a_folder_without_a_config_are_nobodys_and_go(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.config.unlink()
    assert directory.state(trial) is State.MISSING
    directory.begin(trial)
    assert not run.checkpoints.exists()


def test_a_trial_whose_return_was_interrupted_is_back_when_the_sweep_goes_on(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    run.path.rename(run.path.with_name(f".{run.path.name}.old"))
    assert directory.state(trial) is State.MISSING
    with directory.lock():
        assert directory.state(trial) is State.UNFINISHED


def begun(directory, trial, code, **manifest):
    """The cell after one round by ``code``."""
    run = directory.begin(trial)
    (run.checkpoints / "round-000001").mkdir(parents=True)
    run.write_json("manifest.json", {"code_sha256": code, **manifest})
    return run


def test_rounds_of_other_code_are_not_gone_on_from(sweep):
    _, (first, second, *_), directory = sweep
    old, today = begun(directory, first, "0" * 64), begun(directory, second, code_hash())
    for run in (old, today):
        run.write_json("tracking.json", {"mlflow": {"round": 1, "memory": {"run_id": "ab"}}})
    assert [directory.outdated(trial) for trial in (first, second)] == ["of other code than today's", ""]
    for trial in (first, second):
        directory.begin(trial)
    assert (old.checkpoints.exists(), today.checkpoints.exists()) == (False, True)
    assert (old.read_json("tracking.json"), bool(today.read_json("tracking.json"))) == ({}, True)
    begun(directory, first, "0" * 64)
    end(old)
    assert not directory.outdated(first)  # complete: its numbers are those of one code


def test_a_trial_whose_old_rounds_cannot_be_removed_is_not_begun_and_stops_no_other(sweep, tmp_path):
    """Gone on from, they would give a run of two codes. No system removes a folder through a link to it."""
    _, (first, *_), directory = sweep
    run = begun(directory, first, "0" * 64)
    run.checkpoints.rename(tmp_path / "elsewhere")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    failures, tally = run_all(sweep, Clockwork(2, {"mask": 1.0, "zero": 1.0}))
    assert [failure.trial for failure in failures] == [first]
    told = "the cell is begun anew, and may not go on from it; remove it by hand"
    assert failures[0].reason == f"cannot remove {run.checkpoints}: Cannot call rmtree on a symbolic link; {told}"
    assert (tally.complete, tally.failed) == (3, 1)
    assert directory.state(first) is State.FAILED
    run.checkpoints.unlink()
    assert run_all(sweep, Clockwork(2, {"mask": 1.0, "zero": 1.0}))[0] == []


TODAY = {"device": "cpu", "versions": {"torch": version("torch"), "numpy": "1.0"}}
MADE = {
    "today's": (TODAY, ""),
    "unknown": ({}, ""),
    "damaged": ({"versions": None}, ""),
    "GPU": ({**TODAY, "device": "cuda"}, "on cuda (today's device is cpu)"),
    "PyTorch": ({**TODAY, "versions": {"torch": "1.13.1"}}, f"of PyTorch 1.13.1 (today's is {version('torch')})"),
}


@pytest.mark.parametrize("made", MADE)
def test_rounds_of_another_device_or_pytorch_are_told_and_not_gone_on_from(tmp_path, capsys, made):
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), set={"device": "cpu"}))
    trials, directory = matrix(definition, tmp_path), SweepDirectory(tmp_path / "out")
    manifest, words = MADE[made]
    run = begun(directory, trials[0], code_hash(), **manifest)
    assert directory.outdated(trials[0]) == words
    _notes(Console(), Plan(definition, (), directory, trials, [(trials[0], State.UNFINISHED)]))
    told = f"unfinished cells with rounds {words}: 1, begun anew: rounds that were made in two ways would be numbers of"
    assert (told in capsys.readouterr().out) == bool(words)
    directory.begin(trials[0])
    assert run.checkpoints.exists() == (not words)


def test_rounds_wait_for_the_device_that_they_were_made_on(sweep):
    """Where none is found that the config asks for, nothing can be run, and nothing is thrown away."""
    _, (trial, *_), directory = sweep
    begun(directory, trial, code_hash(), device="cuda")
    for device, outdated in ((None, False), ("cuda", False), ("cpu", True)):
        there = SweepDirectory(directory.path, device=lambda _, found=device: found)
        assert bool(there.outdated(trial)) == outdated


def test_a_trial_that_was_completed_meanwhile_is_not_begun(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    end(run)
    assert directory.begin(trial).completed()


def test_a_complete_trial_says_how_it_was_made_otherwise_than_today(sweep):
    _, (trial, *_), directory = sweep
    run = directory.begin(trial)
    assert list(origins(directory, trial)) == []
    run.write_json("manifest.json", {"code_sha256": code_hash(), **TODAY})
    assert list(origins(directory, trial)) == []
    made = {"code_sha256": "0" * 64, "device": "cuda", "versions": {"torch": "1.13.1", "numpy": "1.0"}}
    run.write_json("manifest.json", made)
    raw = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**raw, "data": {**raw["data"], "root": "/elsewhere"}}))
    assert list(origins(directory, trial)) == [
        f"by other code (00000000) than today's ({code_hash()[:8]}), which may not repeat them bit by bit",
        "on cuda, and cpu would be used here today",
        f"with PyTorch 1.13.1, and today's is {version('torch')}",
        "with data.root /elsewhere, and today's is unset",
    ]


def test_a_complete_trial_without_a_report_gets_one(sweep):
    _, (trial, other, *_), directory = sweep
    run = directory.begin(trial)
    directory.tidy(trial)
    assert not (run.path / "report.html").exists()  # it is not complete
    end(run)
    directory.tidy(trial)
    report = run.path / "report.html"
    assert "<html" in report.read_text()
    report.write_text("mine")
    directory.tidy(trial)
    assert report.read_text() == "mine"
    bare = directory.run_of(other)
    end(bare)
    with files_end_at(2000):
        directory.tidy(other)
    told = f"(report.html could not be made: cannot write {bare.path / 'report.html'}: File too large"
    assert told in directory.log(other).read_text()


def test_what_is_recorded_does_not_say_where_the_data_lie(tmp_path):
    (tmp_path / "data").mkdir()
    root = str(tmp_path / "data")
    axes = {"level": {"a": {"data": {"root": root}}, "b": {"data": {"root": root, "train": 24}}}}
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), axes=axes, set={"data.root": root}))
    settings = [f"data={{name: toy, root: {root}}}", f"data.root={root}", "rounds=3"]
    directory = SweepDirectory(tmp_path / "out")
    directory.trials.mkdir(parents=True)
    directory.record(definition, matrix(definition, tmp_path), settings)
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
    directory.record(definition, matrix(definition, tmp_path), [])
    assert (directory.path / "reference.csv").read_bytes() == content
    assert read_sweep(directory.path).table == {"reference": "reference.csv"}
    (tmp_path / "published.csv").unlink()
    with pytest.raises(RunError, match=r"cannot copy .*published\.csv to .*reference\.csv: No such file"):
        directory.record(definition, matrix(definition, tmp_path), [])


def test_two_commands_cannot_work_on_one_sweep(sweep):
    _, _, directory = sweep
    words = (
        rf"^the sweep in {directory.path} is being worked on by process \d+ on .*; end that, then give the same command"
    )
    with directory.lock(), pytest.raises(RunError, match=words), directory.lock():
        pass


def test_a_sweep_that_cannot_be_written_is_one_clear_line(sweep):
    _, _, directory = sweep
    (directory.path / "run.lock").mkdir(parents=True)
    words = (
        r"cannot write .*/run\.lock: Is a directory; make room or mend the rights of the sweep directory, then give the"
    )
    with pytest.raises(UsageError, match=words), directory.lock():
        pass


def test_a_sweep_is_read_back_wherever_it_lies(sweep, tmp_path):
    definition, trials, directory = sweep
    for trial, status in zip(trials, ("completed", "failed", None), strict=False):
        run = directory.begin(trial)
        if status:
            end(run, status)
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


def test_a_directory_of_another_sweep_is_not_taken(sweep):
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


def test_what_is_no_sweep_is_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"the directory that `fedrecon sweep` made, found no sweep\.yaml in it"):
        read_sweep(tmp_path)
    for text in ("", "[", "name: a\n", "name: a\naxes: {}\ntable: null\ncells: [{}]\n", "a: 2020-99-99", "[" * 100_000):
        (tmp_path / "sweep.yaml").write_text(text)
        with pytest.raises(DataError, match=r"sweep\.yaml is damaged"):
            read_sweep(tmp_path)


class Clockwork(Workers):
    """Ends the run that has the fewest seconds left, as processes do whose times are known; some fail."""

    def __init__(self, capacity: int, seconds: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.capacity = capacity
        self.seconds, self.failing = seconds, failing
        self.running: dict[Path, float] = {}
        self.instruction: list[str] = []

    def start(self, path):
        slug = path.name.rsplit("-", 1)[0]
        assert len(self.running) < self.capacity
        self.instruction.append(slug)
        self.running[path] = self.seconds[slug.split("-")[0]]

    def ended(self, seconds):
        path = min(self.running, key=self.running.__getitem__)
        spent = self.running.pop(path)
        self.running = {other: left - spent for other, left in self.running.items()}
        if path.name.rsplit("-", 1)[0] in self.failing:
            return [Ended(path, "it broke")]
        slug = path.name.split("-")[0]
        text = json.dumps({"status": "completed", "wall_seconds": self.seconds[slug]})
        (path / "result.json").write_text(text)
        return [Ended(path)]

    def close(self):
        self.running = {}


def run_all(sweep, workers, times=None):
    _, trials, directory = sweep
    board = Board(Console(quiet=True), Tally(len(trials)), times or Times())
    return Schedule(directory, workers, board).run(trials), board.tally


def test_unknown_families_come_first_then_the_longest_trials(tmp_path):
    axes = {"recovery": ["mask", "zero", "mean"], "seed": [0, 1, 2]}
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), axes=axes))
    sweep = definition, matrix(definition, tmp_path), SweepDirectory(tmp_path / "out")
    workers = Clockwork(2, {"mask": 10.0, "zero": 30.0, "mean": 15.0})
    failures, tally = run_all(sweep, workers)
    assert failures == []
    assert workers.instruction[:3] == ["mask-seed0", "zero-seed0", "mean-seed0"]
    assert workers.instruction[3:] == [
        "zero-seed1",
        "zero-seed2",
        "mean-seed1",
        "mean-seed2",
        "mask-seed1",
        "mask-seed2",
    ]
    assert (tally.complete, tally.failed) == (9, 0)


def test_a_failed_trial_stops_no_other(sweep):
    workers = Clockwork(1, {"mask": 1.0, "zero": 1.0}, failing=("mask-seed1",))
    failures, tally = run_all(sweep, workers)
    assert [(failure.trial.slug, failure.reason) for failure in failures] == [("mask-seed1", "it broke")]
    assert (tally.complete, tally.failed) == (3, 1)
    assert len(workers.instruction) == 4


def test_a_trial_that_died_without_a_word_is_recorded_as_failed_until_it_is_tried_again(sweep):
    _, trials, directory = sweep
    failures, _ = run_all(sweep, Clockwork(1, {"mask": 1.0, "zero": 1.0}, failing=("mask-seed1",)))
    assert [failure.reason for failure in failures] == ["it broke"]
    assert directory.state(trials[1]) is State.FAILED
    assert directory.run_of(trials[1]).read_json("result.json") == {
        "status": "failed",
        "error": "it broke",
        "exit_code": 1,
        "rounds": 0,
    }
    failures, _ = run_all(sweep, Clockwork(1, {"mask": 1.0, "zero": 1.0}))
    assert (failures, directory.state(trials[1])) == ([], State.COMPLETE)


def test_what_a_trial_says_of_its_own_end_is_not_overwritten(sweep):
    _, (trial, other, *_), directory = sweep
    own = directory.begin(trial)
    end(own, "failed")
    directory.note_failure(trial, "it was lost", 0)
    assert own.read_json("result.json")["error"] == "it broke"
    strange = directory.begin(other)
    strange.config.write_text(trial.config.to_yaml())
    directory.note_failure(other, "it holds another config", 0)
    assert not strange.result.exists()


def test_a_trial_that_another_process_works_on_is_left_to_it_and_stops_no_other(sweep):
    _, trials, directory = sweep
    taken = directory.begin(trials[2])
    before = taken.config.stat().st_mtime_ns
    with taken.lock():
        failures, tally = run_all(sweep, Clockwork(2, {"mask": 1.0, "zero": 1.0}))
    assert [failure.trial.slug for failure in failures] == ["zero-seed0"]
    assert "is being worked on by process" in failures[0].reason
    assert (tally.complete, tally.failed) == (3, 1)
    assert (taken.config.stat().st_mtime_ns, taken.result.exists()) == (before, False)


def test_a_trial_that_was_completed_since_the_sweep_began_is_settled_without_a_run(sweep):
    _, trials, directory = sweep

    class Beside(Clockwork):
        def start(self, path):
            super().start(path)
            end(directory.begin(trials[3]), seconds=7.0)

    workers = Beside(1, {"mask": 1.0, "zero": 1.0})
    failures, tally = run_all(sweep, workers)
    assert (failures, tally.complete, len(workers.instruction)) == ([], 4, 3)
    assert directory.seconds_of(trials[3]) == 7.0


def test_whatever_keeps_a_trial_from_starting_is_its_failure_alone(sweep):
    _, trials, directory = sweep
    (directory.begin(trials[1]).checkpoints / "round-old").mkdir(parents=True)
    directory.run_of(trials[1]).write_json("manifest.json", {"code_sha256": code_hash()})

    class Poor(Clockwork):
        def start(self, path):
            if path.name.startswith("zero-seed1"):
                raise OSError(12, "Cannot allocate memory")
            super().start(path)

    failures, tally = run_all(sweep, Poor(2, {"mask": 1.0, "zero": 1.0}))
    assert sorted((failure.trial.slug, failure.reason) for failure in failures) == [
        ("mask-seed1", "ValueError: invalid literal for int() with base 10: 'old'"),
        ("zero-seed1", "OSError: [Errno 12] Cannot allocate memory"),
    ]
    assert (tally.complete, tally.failed) == (2, 2)
    assert [directory.state(trial).value for trial in trials] == ["complete", "failed", "complete", "failed"]


def test_trials_at_work_when_the_workers_are_lost_have_failed_and_those_that_waited_are_as_they_were(sweep):
    _, trials, directory = sweep

    class Lost(Clockwork):
        def ended(self, seconds):
            if len(self.instruction) < 3:
                return super().ended(seconds)
            raise LostError("the machine is gone")

    board = Board(Console(quiet=True), Tally(4), Times())
    with pytest.raises(LostError, match=r"^the machine is gone$"):
        Schedule(directory, Lost(2, {"mask": 1.0, "zero": 1.0}), board).run(trials)
    states = {trial.slug: directory.state(trial).value for trial in trials}
    assert sorted(states.values()) == ["complete", "failed", "failed", "missing"]
    assert (board.tally.complete, board.tally.failed) == (1, 2)
    told = {ending(directory.run_of(trial).path).get("error") for trial in trials if states[trial.slug] == "failed"}
    assert told == {"the machine is gone"}


def test_an_odd_folder_among_the_checkpoints_of_a_running_trial_ends_no_sweep(sweep):
    class Odd(Clockwork):
        def start(self, path):
            super().start(path)
            (path / "checkpoints" / "round-odd").mkdir(parents=True)

    failures, _ = run_all(sweep, Odd(1, {"mask": 1.0, "zero": 1.0}))
    assert failures == []


def test_a_part_without_the_baseline_of_the_table_is_told_until_the_baseline_is_complete(tmp_path, capsys):
    path = write_sweep(tmp_path, toy_settings("mask"), table={"baseline": {"recovery": "mask"}})
    definition, directory = read_definition(path), SweepDirectory(tmp_path / "out")
    trials = matrix(definition, tmp_path)

    def told(asked):
        _notes(Console(), Plan(definition, (), directory, trials, [(trial, directory.state(trial)) for trial in asked]))
        return capsys.readouterr().out

    assert told(trials[2:]).startswith("recovery=mask, the table's baseline, is in no cell of this part, and none is")
    assert told(trials) == told(trials[1:]) == ""
    end(directory.begin(trials[0]))
    assert "baseline" not in told(trials[2:])


def test_a_folder_of_another_config_hinders_no_part_that_does_not_need_it(tmp_path):
    path = write_sweep(tmp_path, toy_settings("mask"), table={"baseline": {"recovery": "mask"}})
    definition, directory = read_definition(path), SweepDirectory(tmp_path / "out")
    trials = matrix(definition, tmp_path)
    directory.begin(trials[0]).config.write_text(trials[1].config.to_yaml())
    _notes(
        Console(), Plan(definition, (), directory, trials, [(trial, directory.state(trial)) for trial in trials[2:]])
    )


def test_without_a_word_as_many_trials_run_as_there_are_cores_to_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert _cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")  # macOS has none
    assert _cores() == os.cpu_count()


def test_times_are_learnt_from_trials_that_differ_in_the_seed_alone(sweep):
    _, trials, directory = sweep
    end(directory.begin(trials[0]), seconds=10.0)
    states = [(trial, directory.state(trial)) for trial in trials]
    times = learn_from_disk(directory, states)
    assert [times.known(trial) for trial in trials] == [10.0, 10.0, None, None]
    assert [times.guess(trial) for trial in trials] == [10.0, 10.0, 10.0, 10.0]  # as long a round, as many rounds
    assert Times().guess(trials[0]) is None


def test_the_table_of_trials_lists_labels_hash_state_and_time(sweep):
    _, trials, directory = sweep
    end(directory.begin(trials[0]), seconds=10.0)
    states = [(trial, directory.state(trial)) for trial in trials]
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(trial_table(states, learn_from_disk(directory, states)))
    text = console.export_text()
    assert [word in text for word in ("recovery", "seed", trials[0].sha256[:10], "complete", "missing", "0:00:10")] == (
        [True] * 6
    )


@pytest.mark.parametrize(("workers", "clock"), [(1, "0:00:30"), (2, "0:00:15"), (8, "0:00:10")])
def test_no_number_of_workers_makes_what_is_left_shorter_than_one_trial(sweep, workers, clock):
    _, trials, directory = sweep
    end(directory.begin(trials[0]), seconds=10.0)
    states = [(trial, directory.state(trial)) for trial in trials]
    told = estimate(states, learn_from_disk(directory, states), lambda: Clockwork(workers, {}))
    assert told.startswith(f"3 cells left, about {clock} with {workers} at a time; estimated from the 1 complete cell")


def test_a_terminal_gets_a_live_table_and_a_pipe_gets_lines(sweep, capsys):
    _, trials, directory = sweep
    assert isinstance(board_for(Console(force_terminal=True), Tally(1), Times()), LiveBoard)
    board = board_for(Console(), Tally(4), Times())
    assert type(board) is Board
    Schedule(directory, Clockwork(1, {"mask": 1.0, "zero": 1.0}, failing=("zero-seed1",)), board).run(trials)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0] == "started  recovery=mask, seed=0"
    assert lines[1].startswith(
        "complete recovery=mask, seed=0  0:00:00  (1 of 4 complete, 0 running, 3 waiting, ETA 0:0"
    )
    assert any(line.startswith("failed   recovery=zero, seed=1: it broke  0:00:00") for line in lines)


def test_what_a_reason_quotes_takes_one_line_and_no_terminal_obeys_it(sweep, capsys):
    _, (trial, *_), directory = sweep
    board = board_for(Console(), Tally(1), Times())
    board.ended(Running(trial, directory.path, 0.0, 0), "it broke:\nfolder \x1b[31mred", 1.0)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("failed   recovery=mask, seed=0: it broke: folder ?[31mred  0:00:01")


def test_the_live_table_shows_round_and_time_of_what_runs(sweep):
    _, trials, directory = sweep
    console = Console(force_terminal=True, record=True, width=120, file=io.StringIO())
    board = board_for(console, Tally(4), Times())

    class Watched(Clockwork):
        def ended(self, seconds):
            path = next(iter(self.running))
            (path / "checkpoints" / "round-000001").mkdir(parents=True, exist_ok=True)
            console.print(board._table())
            return super().ended(seconds)

    board.open()
    Schedule(directory, Watched(1, {"mask": 1.0, "zero": 1.0}), board).run(trials)
    board.close()
    text = console.export_text()
    assert "recovery=zero, seed=1" in text
    assert "1/2" in text
    assert "3 of 4 complete, 1 running, 0 waiting, ETA 0:00:0" in text


def test_the_rounds_that_a_dry_run_tries_are_told_to_no_tracker(tmp_path):
    """A tracker may be a server that others look at."""
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), table=TABLE))
    trial = matrix(definition, tmp_path, ["rounds=1", "tracking.tensorboard=true"])[0]
    left = []

    class Here(Clockwork):
        def start(self, path):
            assert run_trial(path, path / "cell.log")
            left.extend(one.name for one in path.iterdir())
            self.running[path] = 1.0

        def ended(self, seconds):
            return [Ended(path) for path in self.running]

    assert try_first(trial, Here(1, {})) > 0
    assert "metrics.jsonl" in left and not {"tensorboard", "tracking.json"} & set(left)


def test_an_interrupt_of_a_dry_run_ends_the_trial_before_its_folder_goes(sweep):
    _, (trial, *_), _ = sweep

    class Interrupted(Clockwork):
        left = None

        def start(self, path):
            self.running[path] = 1.0

        def ended(self, seconds):
            raise KeyboardInterrupt

        def close(self):
            self.left = self.left or [path.is_dir() for path in self.running]

    workers = Interrupted(1, {})
    with pytest.raises(KeyboardInterrupt):
        try_first(trial, workers)
    assert workers.left == [True]

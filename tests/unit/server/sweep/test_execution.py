"""Execution of a sweep: the scheduler, the executors, and run directories as bytes."""

import io
import json
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ray.exceptions import RayError
from rich.console import Console

from fedrecon_core.errors import RunError, UsageError
from fedrecon_core.files import replace_folder
from server.runs.directory import RunDirectory
from server.sweep import ray_executor
from server.sweep.dry_run import estimate, measure_time, trial_table
from server.sweep.executor import Ended, Executor, LostError, run_trial
from server.sweep.progress import Board, LiveBoard, Running, Tally, Times, board_for
from server.sweep.ray_executor import RayExecutor, copy_back, gpu_share, pack, unpack
from server.sweep.record import State, read_result
from server.sweep.scheduler import Scheduler, read_times
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory, device_on_ray
from server.sweep.trials import build_trials
from strategies.code_hash import code_hash
from tests.helpers.sweeps import begin_round, end_run, write_sweep
from tests.helpers.toy import toy_config, toy_settings


class Clockwork(Executor):
    """Ends the run that has the fewest seconds left, as processes do whose times are known; some fail."""

    def __init__(self, capacity: int, seconds: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.capacity = capacity
        self.seconds, self.failing = seconds, failing
        self.running: dict[Path, float] = {}
        self.order: list[str] = []

    def start(self, path, config):
        slug = path.name.rsplit("-", 1)[0]
        assert len(self.running) < self.capacity
        self.order.append(slug)
        self.running[path] = self.seconds[slug.split("-")[0]]

    def wait(self, seconds):
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
    return Scheduler(directory, workers, board).run(trials), board.tally


def test_a_trial_whose_old_rounds_cannot_be_deleted_fails_alone(sweep, tmp_path):
    """Resumed, they would give a run of two codes. No system deletes a folder through a link to it."""
    _, (first, *_), directory = sweep
    run = begin_round(directory, first, "0" * 64)
    run.checkpoints.rename(tmp_path / "elsewhere")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    failures, tally = run_all(sweep, Clockwork(2, {"mask": 1.0, "zero": 1.0}))
    assert [failure.trial for failure in failures] == [first]
    hint = "the trial starts over and must not resume from it; delete it by hand"
    assert failures[0].reason == f"cannot remove {run.checkpoints}: Cannot call rmtree on a symbolic link; {hint}"
    assert (tally.complete, tally.failed) == (3, 1)
    assert directory.state(first) is State.FAILED
    run.checkpoints.unlink()
    assert run_all(sweep, Clockwork(2, {"mask": 1.0, "zero": 1.0}))[0] == []


def test_unknown_families_come_first_then_the_longest_trials(tmp_path):
    axes = {"recovery": ["mask", "zero", "mean"], "seed": [0, 1, 2]}
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), axes=axes))
    sweep = definition, build_trials(definition, tmp_path), SweepDirectory(tmp_path / "out")
    workers = Clockwork(2, {"mask": 10.0, "zero": 30.0, "mean": 15.0})
    failures, tally = run_all(sweep, workers)
    assert failures == []
    assert workers.order[:3] == ["mask-seed0", "zero-seed0", "mean-seed0"]
    assert workers.order[3:] == [
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
    assert len(workers.order) == 4


def test_a_trial_that_died_without_a_result_is_failed_until_it_is_retried(sweep):
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


def test_the_result_of_a_trial_is_not_overwritten(sweep):
    _, (trial, other, *_), directory = sweep
    own = directory.begin(trial)
    end_run(own, "failed")
    directory.note_failure(trial, "it was lost", 0)
    assert own.read_json("result.json")["error"] == "it broke"
    strange = directory.begin(other)
    strange.config.write_text(trial.config.to_yaml())
    directory.note_failure(other, "it holds another config", 0)
    assert not strange.result.exists()


def test_a_trial_locked_by_another_process_fails_alone(sweep):
    _, trials, directory = sweep
    taken = directory.begin(trials[2])
    before = taken.config.stat().st_mtime_ns
    with taken.lock():
        failures, tally = run_all(sweep, Clockwork(2, {"mask": 1.0, "zero": 1.0}))
    assert [failure.trial.slug for failure in failures] == ["zero-seed0"]
    assert "is in use by process" in failures[0].reason
    assert (tally.complete, tally.failed) == (3, 1)
    assert (taken.config.stat().st_mtime_ns, taken.result.exists()) == (before, False)


def test_a_trial_completed_by_another_process_counts_as_complete(sweep):
    _, trials, directory = sweep

    class Beside(Clockwork):
        def start(self, path, config):
            super().start(path, config)
            end_run(directory.begin(trials[3]), seconds=7.0)

    workers = Beside(1, {"mask": 1.0, "zero": 1.0})
    failures, tally = run_all(sweep, workers)
    assert (failures, tally.complete, len(workers.order)) == ([], 4, 3)
    assert directory.seconds_of(trials[3]) == 7.0


def test_an_error_on_start_fails_that_trial_alone(sweep):
    _, trials, directory = sweep
    (directory.begin(trials[1]).checkpoints / "round-old").mkdir(parents=True)
    directory.run_of(trials[1]).write_json("manifest.json", {"code_sha256": code_hash()})

    class Poor(Clockwork):
        def start(self, path, config):
            if path.name.startswith("zero-seed1"):
                raise OSError(12, "Cannot allocate memory")
            super().start(path, config)

    failures, tally = run_all(sweep, Poor(2, {"mask": 1.0, "zero": 1.0}))
    assert sorted((failure.trial.slug, failure.reason) for failure in failures) == [
        ("mask-seed1", "ValueError: invalid literal for int() with base 10: 'old'"),
        ("zero-seed1", "OSError: [Errno 12] Cannot allocate memory"),
    ]
    assert (tally.complete, tally.failed) == (2, 2)
    assert [directory.state(trial).value for trial in trials] == ["complete", "failed", "complete", "failed"]


def test_when_the_executor_is_lost_running_trials_fail_and_waiting_ones_are_unchanged(sweep):
    _, trials, directory = sweep

    class Lost(Clockwork):
        def wait(self, seconds):
            if len(self.order) < 3:
                return super().wait(seconds)
            raise LostError("the machine is gone")

    board = Board(Console(quiet=True), Tally(4), Times())
    with pytest.raises(LostError, match=r"^the machine is gone$"):
        Scheduler(directory, Lost(2, {"mask": 1.0, "zero": 1.0}), board).run(trials)
    states = {trial.slug: directory.state(trial).value for trial in trials}
    assert sorted(states.values()) == ["complete", "failed", "failed", "missing"]
    assert (board.tally.complete, board.tally.failed) == (1, 2)
    reasons = {
        read_result(directory.run_of(trial).path).get("error") for trial in trials if states[trial.slug] == "failed"
    }
    assert reasons == {"the machine is gone"}


def test_an_odd_folder_among_checkpoints_does_not_end_the_sweep(sweep):
    class Odd(Clockwork):
        def start(self, path, config):
            super().start(path, config)
            (path / "checkpoints" / "round-odd").mkdir(parents=True)

    failures, _ = run_all(sweep, Odd(1, {"mask": 1.0, "zero": 1.0}))
    assert failures == []


def test_times_are_estimated_from_trials_that_differ_in_the_seed(sweep):
    _, trials, directory = sweep
    end_run(directory.begin(trials[0]), seconds=10.0)
    states = [(trial, directory.state(trial)) for trial in trials]
    times = read_times(directory, states)
    assert [times.family_mean(trial) for trial in trials] == [10.0, 10.0, None, None]
    assert [times.estimate(trial) for trial in trials] == [10.0, 10.0, 10.0, 10.0]  # as long a round, as many rounds
    assert Times().estimate(trials[0]) is None


def test_the_table_of_trials_lists_labels_hash_state_and_time(sweep):
    _, trials, directory = sweep
    end_run(directory.begin(trials[0]), seconds=10.0)
    states = [(trial, directory.state(trial)) for trial in trials]
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(trial_table(states, read_times(directory, states)))
    text = console.export_text()
    assert [word in text for word in ("recovery", "seed", trials[0].sha256[:10], "complete", "missing", "0:00:10")] == (
        [True] * 6
    )


@pytest.mark.parametrize(("workers", "clock"), [(1, "0:00:30"), (2, "0:00:15"), (8, "0:00:10")])
def test_an_estimate_is_at_least_the_time_of_one_trial(sweep, workers, clock):
    _, trials, directory = sweep
    end_run(directory.begin(trials[0]), seconds=10.0)
    states = [(trial, directory.state(trial)) for trial in trials]
    text = estimate(states, read_times(directory, states), lambda: Clockwork(workers, {}))
    assert text.startswith(
        f"3 trials left, about {clock} with {workers} at a time; estimated from the 1 complete trial"
    )


def test_a_terminal_gets_a_live_table_and_a_pipe_gets_lines(sweep, capsys):
    _, trials, directory = sweep
    assert isinstance(board_for(Console(force_terminal=True), Tally(1), Times()), LiveBoard)
    board = board_for(Console(), Tally(4), Times())
    assert type(board) is Board
    Scheduler(directory, Clockwork(1, {"mask": 1.0, "zero": 1.0}, failing=("zero-seed1",)), board).run(trials)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0] == "started  recovery=mask, seed=0"
    assert lines[1].startswith(
        "complete recovery=mask, seed=0  0:00:00  (1 of 4 complete, 0 running, 3 waiting, ETA 0:0"
    )
    assert any(line.startswith("failed   recovery=zero, seed=1: it broke  0:00:00") for line in lines)


def test_a_reason_is_printed_as_one_line_without_control_characters(sweep, capsys):
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
        def wait(self, seconds):
            path = next(iter(self.running))
            (path / "checkpoints" / "round-000001").mkdir(parents=True, exist_ok=True)
            console.print(board.table())
            return super().wait(seconds)

    board.open()
    Scheduler(directory, Watched(1, {"mask": 1.0, "zero": 1.0}), board).run(trials)
    board.close()
    text = console.export_text()
    assert "recovery=zero, seed=1" in text
    assert "1/2" in text
    assert "3 of 4 complete, 1 running, 0 waiting, ETA 0:00:0" in text


def test_rounds_of_a_dry_run_are_not_tracked(tmp_path):
    """A tracker may be a server that others look at."""
    definition = read_definition(write_sweep(tmp_path, toy_settings("mask"), table={"metrics": ["uar"]}))
    trial = build_trials(definition, tmp_path, ["rounds=1", "tracking.tensorboard=true"])[0]
    left = []

    class Here(Clockwork):
        def start(self, path, config):
            assert run_trial(path)
            left.extend(one.name for one in path.iterdir())
            self.running[path] = 1.0

        def wait(self, seconds):
            return [Ended(path) for path in self.running]

    assert measure_time(trial, Here(1, {})) > 0
    assert "metrics.jsonl" in left and not {"tensorboard", "tracking.json"} & set(left)


def test_an_interrupt_of_a_dry_run_stops_the_run_before_its_folder_is_deleted(sweep):
    _, (trial, *_), _ = sweep

    class Interrupted(Clockwork):
        left = None

        def start(self, path, config):
            self.running[path] = 1.0

        def wait(self, seconds):
            raise KeyboardInterrupt

        def close(self):
            self.left = self.left or [path.is_dir() for path in self.running]

    workers = Interrupted(1, {})
    with pytest.raises(KeyboardInterrupt):
        measure_time(trial, workers)
    assert workers.left == [True]


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(1.0, None, 1.0), (8.0, None, 1.0), (2.0, 8, 0.25), (2.0, 3, 0.5), (4.0, 2, 1.0), (1.0, 7, 0.1428), (1.0, 1, 1.0)],
)
def test_a_run_on_cuda_reserves_a_gpu_or_a_part_so_small_that_all_workers_fit(gpus, workers, share):
    assert gpu_share(gpus, workers) == share
    assert int(gpus) * int(1 / share) >= (workers or 1)


@pytest.mark.quick
@pytest.mark.parametrize("workers", [None, 4])
def test_a_cluster_without_a_gpu_is_refused(workers):
    with pytest.raises(UsageError, match="device: 'cuda' needs a GPU, and the Ray cluster has none"):
        gpu_share(0, workers)


@pytest.mark.quick
def test_ray_head_that_ends_after_the_check_is_detected(monkeypatch):
    """A call of Ray would block until Ray ends the process."""
    executor, ended = RayExecutor.__new__(RayExecutor), threading.Event()
    executor._address = "127.0.0.1:1"
    monkeypatch.setattr(ray_executor, "require_cluster", lambda *_: None)
    monkeypatch.setattr(ray_executor.ray, "cluster_resources", ended.wait)
    monkeypatch.setattr(ray_executor, "LOST_SECONDS", 0.05)
    with pytest.raises(LostError, match=r"the Ray cluster at 127\.0\.0\.1:1 is lost: its head has not answered"):
        executor.wait(1.0)
    ended.set()


@pytest.mark.quick
def test_error_of_the_ray_cluster_is_the_reason_of_its_loss(monkeypatch):
    def refuse() -> None:
        raise RayError("the cluster was stopped")

    executor = RayExecutor.__new__(RayExecutor)
    executor._address = "127.0.0.1:1"
    monkeypatch.setattr(ray_executor, "require_cluster", lambda *_: None)
    monkeypatch.setattr(ray_executor.ray, "cluster_resources", refuse)
    with pytest.raises(LostError, match=r"the Ray cluster at 127\.0\.0\.1:1 is lost: the cluster was stopped"):
        executor.wait(1.0)


@pytest.mark.quick
def test_on_ray_only_cuda_means_a_gpu():
    config = toy_config("mask")
    devices = {name: device_on_ray(config.model_copy(update={"device": name})) for name in ("auto", "cpu", "cuda")}
    assert devices == {"auto": "cpu", "cpu": "cpu", "cuda": "cuda"}


@pytest.fixture
def sent(tmp_path):
    """The run directory of a trial that was sent, and what comes back."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "config.yaml").write_text(folder.name)
    (there / "result.json").write_text(json.dumps({"status": "completed"}))
    return RunDirectory(here), pack(there)


@pytest.mark.quick
def test_a_run_resumed_by_another_process_is_not_replaced(sent):
    run, data = sent
    with run.lock():
        ended = copy_back(run.path, data)
        assert run.config.read_text() == "here"
        assert not run.completed()
    expected = f"its result was returned but could not be written here: the run in {run.path} is in use by process "
    assert ended.reason.startswith(expected)
    assert copy_back(run.path, data).reason == ""
    assert run.config.read_text() == "there"
    assert run.completed()


@pytest.mark.quick
def test_a_lock_that_waited_during_a_copy_back_is_of_the_new_folder(sent):
    """The folder that it waited for is replaced, and with it the lock file that it had opened."""
    run, data = sent
    seen = []

    def resume():
        with run.lock():
            seen.append(run.completed())
            with suppress(RunError), run.lock(0.0):
                seen.append("another holds it, too")

    with run.lock():
        waiting = threading.Thread(target=resume)
        waiting.start()
        time.sleep(0.5)
        replace_folder(run.path, lambda arrived: unpack(data, arrived))
        assert seen == []
    waiting.join()
    assert seen == [True]


@pytest.mark.quick
def test_a_packed_folder_is_unpacked_as_it_was_and_a_damaged_one_leaves_the_old(tmp_path):
    def content(folder):
        return sorted(path.name for path in folder.iterdir()), (folder / "config.yaml").read_text()

    old, source = tmp_path / "trial", tmp_path / "source"
    (old / "checkpoints").mkdir(parents=True)
    source.mkdir()
    (old / "config.yaml").write_text("old")
    (source / "config.yaml").write_text("new")
    (source / "result.json").write_text("{}")
    data = pack(source, ("result.json",))
    with pytest.raises(tarfile.TarError):
        replace_folder(old, lambda arrived: unpack(data[:100], arrived))
    assert content(old) == (["checkpoints", "config.yaml"], "old")
    replace_folder(old, lambda arrived: unpack(data, arrived))
    assert content(old) == (["config.yaml"], "new")

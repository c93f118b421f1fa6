"""Whole runs with trackers: stored values, resumed runs, and failing trackers."""

import contextlib
import math
from collections import Counter
from pathlib import Path

import pytest
import yaml

from fedrecon_core.registry import discover
from server import app
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.directory import RunDirectory
from server.runs.setup import create_run, open_run, resume_run
from server.runs.tracking import Trackers
from server.sweep.executor import run_trial
from server.sweep.ray_executor import pack, run_packed
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from server.trackers.base import TRACKER_PACKAGES, TRACKERS, TrackedRun, Tracker, TrackerParams
from server.trackers.numbers import numbers_of_result, numbers_of_round
from tests.helpers import runs, tracked
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import write_sweep

discover(TRACKER_PACKAGES)
NONE = {"tensorboard": None}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=sorted(tracked.READERS))
def name(request):
    """Each tracker that comes with the project, where its package is installed."""
    tracked.require(request.param)
    return request.param


class NoisyParams(TrackerParams):
    """``at``: the round of the fault; ``interrupts``: interrupt the run instead of failing."""

    at: int
    interrupts: bool = False


@pytest.fixture
def noisy():
    """A tracker, called after the others, that interrupts the run like Ctrl-C, or fails."""
    heard = []

    @TRACKERS.register("zz_noisy")
    class Noisy(Tracker):
        Params = NoisyParams

        def start(self, run):
            heard.append("start")
            return {"known": True}

        def metrics(self, round_, values):
            heard.append(round_)
            if round_ == self.params.at:
                raise KeyboardInterrupt if self.params.interrupts else OSError("the network\nis down")

        def finish(self, result):
            heard.append(result["status"])

        def close(self):
            heard.append("close")

    yield heard
    TRACKERS.forget("zz_noisy")


def settings(tracking, **changes):
    """The config of a short run."""
    return runs.settings(recovery="mask", tracking=tracking, **changes)


def begin(folder: Path, tracking, **changes) -> Path:
    """A run that is interrupted after a round's numbers are written and before its checkpoint."""
    prepared = create_run(runs.write(folder, settings(tracking, **changes)), out=folder / "run")
    with contextlib.suppress(KeyboardInterrupt):
        InProcess().run(Job.of(prepared))
    return prepared.directory.path


def go_on(directory: Path, *changes: str) -> None:
    InProcess().run(Job.of(resume_run(directory, changes), resume=True))


def rounds_of(directory: Path) -> dict[int, dict[str, float]]:
    """Round -> the numbers in the run's own files."""
    lines, sites = (runs.lines(directory, file) for file in ("metrics.jsonl", "sites.jsonl"))
    return {
        n: numbers_of_round([x for x in lines if x["round"] == n], [x for x in sites if x["round"] == n])
        for n in sorted({line["round"] for line in lines})
    }


def same(found: float, written: float) -> bool:
    """TensorBoard keeps 32 bits."""
    return math.isclose(found, written, rel_tol=1e-6) or (math.isnan(found) and math.isnan(written))


def check_holds_every_number_once(name: str, directory: Path) -> None:
    points, rounds = tracked.READERS[name](directory), rounds_of(directory)
    written = {tag: [(n, rounds[n][tag]) for n in rounds if tag in rounds[n]] for n in rounds for tag in rounds[n]}
    assert {"train/loss", "validation/uar", "sites/bytes_up", "sites/task_seconds", "train/train_seconds"} <= {*written}
    for tag, expected in written.items():
        assert [step for step, _ in points[tag]] == [step for step, _ in expected], tag
        if not tag.endswith("_seconds"):  # a tracker may keep the durations of the first execution of a round
            assert all(same(a, b) for (_, a), (_, b) in zip(points[tag], expected, strict=True)), tag


# --- what stands there ------------------------------------------------------------------------------------------------


def test_tracked_run_has_every_number_and_unchanged_parameters(name, tmp_path):
    found = runs.run(tmp_path / "tracked", settings({**NONE, name: True}))
    plain = runs.run(tmp_path / "plain", settings(NONE))
    assert runs.outcome(found) == runs.outcome(plain)
    assert not (plain / "tracking.json").exists()
    check_holds_every_number_once(name, found)


def test_tensorboard_has_config_and_test_scores_at_the_tested_round(tmp_path):
    tracked.require("tensorboard")
    directory = runs.run(tmp_path, runs.settings(recovery="mask"))
    result, points = runs.result(directory), tracked.tensorboard_points(directory)
    assert yaml.safe_load((directory / "config.yaml").read_text())["tracking"] == {"tensorboard": "auto"}
    assert points["test/uar"] == [(result["best_round"], pytest.approx(result["test"]["uar"]))]
    assert points["total/bytes_up"] == [(3, result["bytes_up"])]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory / "tensorboard")).Reload()
    [event] = found.Tensors("config/text_summary")
    assert b"strategy:" in event.tensor_proto.string_val[0]


def test_mlflow_has_params_tags_scores_and_the_status(tmp_path):
    tracked.require("mlflow")
    directory = runs.run(tmp_path, settings({**NONE, "mlflow": {"experiment": "toys"}}, seed=3))
    client, run = tracked.mlflow_run(directory)
    result, manifest = runs.result(directory), RunDirectory(directory).read_json("manifest.json")
    assert client.get_experiment(run.info.experiment_id).name == "toys"
    assert (run.info.run_name, run.info.status) == ("toy", "FINISHED")
    assert run.data.params["recovery.name"] == "mask"
    assert run.data.params["missing.train.rate"] == "0.5"
    assert not [key for key in run.data.params if key.startswith("tracking")]
    expected = {"engine": "inprocess", "seed": "3", "code_sha256": manifest["code_sha256"]}
    assert expected.items() <= run.data.tags.items()
    assert numbers_of_result(result).items() <= run.data.metrics.items()


def test_wandb_is_offline_and_has_config_scores_and_the_exit_code(tmp_path):
    tracked.require("wandb")
    directory = runs.run(tmp_path, settings({**NONE, "wandb": {"project": "toys", "group": "g"}}))
    records = list(tracked.wandb_records(directory))
    [run] = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    [end] = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    assert (run.project, run.run_group, run.display_name, end.exit_code) == ("toys", "g", "toy", 0)
    config = {item.key: yaml.safe_load(item.value_json) for item in run.config.update}
    assert config["recovery"]["name"] == "mask"
    assert config["run"]["engine"] == "inprocess"
    assert "tracking" not in config
    summary = tracked.wandb_summary(directory)
    assert {**numbers_of_result(runs.result(directory)), "status": "completed"}.items() <= summary.items()


# --- trials of a sweep ------------------------------------------------------------------------------------------------


@pytest.fixture
def tracked_runs():
    """The runs passed to a tracker."""
    heard = []

    @TRACKERS.register("zz_told")
    class Recording(Tracker):
        def start(self, run):
            heard.append(run)
            return {"known": True}

        metrics = finish = close = lambda *_: None

    yield heard
    TRACKERS.forget("zz_told")


@pytest.mark.parametrize("packed", [False, True], ids=["here", "on another machine"])
def test_trials_of_a_sweep_are_tracked_with_names_and_values(packed, tmp_path, tracked_runs):
    definition = read_definition(write_sweep(tmp_path, settings({**NONE, "zz_told": True})))
    directory, trials = SweepDirectory(tmp_path / "out"), build_trials(definition, tmp_path)[:2]
    for trial in trials:
        path = directory.begin(trial).path
        assert run_packed(pack(path)) if packed else run_trial(path)
    assert [(run.name, run.labels) for run in tracked_runs] == [(trial.slug, trial.labels) for trial in trials]
    assert len({run.name for run in tracked_runs}) == 2


@pytest.mark.parametrize("name", ["mlflow", "wandb"], indirect=True)
def test_name_and_values_of_a_trial_can_be_read_back(name, tmp_path):
    tracker = TRACKERS.get(name)(TRACKERS.get(name).Params())
    tracker.start(TrackedRun(tmp_path, "mask-30_", {"rounds": 3}, labels={"recovery": "mask", "rate (all)": "30%"}))
    tracker.close()
    if name == "mlflow":
        run = tracked.mlflow_run(tmp_path)[1]
        assert run.info.run_name == "mask-30_"
        assert {"cell.recovery": "mask", "cell.rate _all_": "30%"}.items() <= run.data.tags.items()
    if name == "wandb":
        [run] = [record.run for record in tracked.wandb_records(tmp_path) if record.HasField("run")]
        config = {item.key: yaml.safe_load(item.value_json) for item in run.config.update}
        assert (run.display_name, config["cell"]) == ("mask-30_", {"recovery": "mask", "rate (all)": "30%"})


# --- several at once --------------------------------------------------------------------------------------------------


def test_simultaneous_runs_share_one_mlflow_store_and_experiment(tmp_path):
    tracked.require("mlflow")
    import mlflow.tracking as mlflow

    uri = f"sqlite:///{tmp_path / 'common.db'}"
    tracked.begin_at_once("mlflow", {"uri": uri, "experiment": "toys"}, [tmp_path / name for name in ("a", "b")])
    client = mlflow.MlflowClient(tracking_uri=uri)
    [known] = [found for found in client.search_experiments() if found.name == "toys"]
    assert {run.info.run_name for run in client.search_runs([known.experiment_id])} == {"a", "b"}


def test_experiment_created_by_another_run_meanwhile_is_used(tmp_path, monkeypatch):
    tracked.require("mlflow")
    import mlflow.tracking as mlflow

    uri = f"sqlite:///{tmp_path / 'common.db'}"
    made, asked = mlflow.MlflowClient(tracking_uri=uri).create_experiment("toys"), []
    known = mlflow.MlflowClient.get_experiment_by_name

    def too_early(client, name):
        asked.append(name)
        return known(client, name) if asked[1:] else None

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", too_early)
    cls = TRACKERS.get("mlflow")
    memory = cls(cls.Params(uri=uri, experiment="toys")).start(TrackedRun(tmp_path, "a", {}))
    assert mlflow.MlflowClient(tracking_uri=uri).get_run(memory["run_id"]).info.experiment_id == made


# --- resumed ----------------------------------------------------------------------------------------------------------


def test_resumed_run_continues_in_the_same_place_without_duplicate_rounds(name, tmp_path, noisy):
    directory = begin(tmp_path, {**NONE, name: True, "zz_noisy": {"at": 2, "interrupts": True}})
    assert [line["round"] for line in runs.lines(directory, "metrics.jsonl")] == [1, 1, 2, 2]
    assert runs.result(directory)["rounds"] == 1  # round 2 is tracked and has no checkpoint
    assert noisy == ["start", 1, 2, "interrupted", "close"]
    if name == "mlflow":
        assert tracked.mlflow_run(directory)[1].info.status == "KILLED"
    go_on(directory, "tracking.zz_noisy=null")
    check_holds_every_number_once(name, directory)
    whole = runs.run(tmp_path / "whole", settings(NONE))
    assert runs.result(directory)["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
    if name == "mlflow":
        assert tracked.mlflow_run(directory)[1].info.status == "FINISHED"  # a single run
    if name == "wandb":
        ids = {record.run.run_id for record in tracked.wandb_records(directory) if record.HasField("run")}
        assert len(ids) == 1


def test_rounds_repeated_from_an_older_checkpoint_are_tracked_once(name, tmp_path, noisy):
    directory = begin(tmp_path, {**NONE, name: True, "zz_noisy": {"at": 4, "interrupts": True}}, rounds=4)
    newest = directory / "checkpoints" / "round-000003"
    newest.rename(tmp_path / "damaged")
    go_on(directory, "tracking.zz_noisy=null")
    check_holds_every_number_once(name, directory)


def test_tracker_added_on_resume_receives_all_rounds(name, tmp_path, noisy):
    directory = begin(tmp_path, {**NONE, "zz_noisy": {"at": 3, "interrupts": True}})
    go_on(directory, "tracking.zz_noisy=null", f"tracking.{name}=true")
    check_holds_every_number_once(name, directory)


# --- complete ---------------------------------------------------------------------------------------------------------


def test_resume_tracks_the_end_of_a_run_killed_after_completion(name, tmp_path, monkeypatch, capsys):
    prepared = create_run(runs.write(tmp_path, settings({**NONE, name: True})), out=tmp_path / "run")
    directory, whole = prepared.directory.path, Trackers.finish

    def killed(self, result):
        for tracker in self._all.values():  # the kernel closes the files of a killed process
            tracker.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Trackers, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        InProcess().run(Job.of(prepared))
    monkeypatch.setattr(Trackers, "finish", whole)
    result = (directory / "result.json").read_bytes()
    command = caller(monkeypatch, capsys)
    code, out, err = command("run", "--resume", "--out", directory)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"tracking.{name} now has the whole run"
    check_holds_every_number_once(name, directory)
    check_knows_the_end(name, directory)
    refused(command("run", "--resume", "--out", directory), "complete; there is nothing to resume")
    assert (directory / "result.json").read_bytes() == result


def check_knows_the_end(name: str, directory: Path) -> None:
    expected = numbers_of_result(runs.result(directory))
    if name == "mlflow":
        run = tracked.mlflow_run(directory)[1]
        assert run.info.status == "FINISHED"
        assert expected.items() <= run.data.metrics.items()
    if name == "wandb":
        assert {**expected, "status": "completed"}.items() <= tracked.wandb_summary(directory).items()
    if name == "tensorboard":
        points = tracked.tensorboard_points(directory)
        assert all([same(found, value) for _, found in points[tag]] == [True] for tag, value in expected.items())


def test_tracker_added_to_a_complete_run_receives_everything(name, tmp_path, monkeypatch, capsys):
    directory = runs.run(tmp_path, settings(NONE))
    config, command = (directory / "config.yaml").read_bytes(), caller(monkeypatch, capsys)
    capsys.readouterr()
    refused(command("run", "--resume", "--out", directory), "complete; there is nothing to resume")
    assert command("run", "--resume", "--out", directory, "--set", f"tracking.{name}=true")[0] == 0
    check_holds_every_number_once(name, directory)
    check_knows_the_end(name, directory)
    assert (directory / "config.yaml").read_bytes() == config


def test_resume_sends_missed_values_of_a_complete_run_without_sites_or_data(tmp_path, monkeypatch, capsys, noisy):
    directory = begin(tmp_path, {**NONE, "zz_noisy": {"at": 2}})
    assert noisy == ["start", 1, 2, "close"]
    noisy.clear()
    app.run(None, open_run(directory))  # without a grid, and the network is still down
    assert noisy == ["start", 2, "close"]
    noisy.clear()
    capsys.readouterr()
    line, command = ("run", "--resume", "--out", directory, "--set"), caller(monkeypatch, capsys)
    refused(command(*line, "rounds=9"), "'rounds=9' would change it")
    code, out, _ = command(*line, "tracking.zz_noisy.at=99")
    assert (code, out) == (0, "tracking.zz_noisy now has the whole run\n")
    assert noisy == ["start", 2, 3, "completed", "close"]
    assert runs.result(directory)["status"] == "completed"


# --- failing ----------------------------------------------------------------------------------------------------------


def test_failing_tracker_is_reported_once_and_the_others_continue(tmp_path, capsys, noisy):
    tracked.require("tensorboard")
    directory = runs.run(tmp_path, settings({"zz_noisy": {"at": 2}}))
    printed = [line for line in capsys.readouterr().out.splitlines() if "tracking" in line]
    assert printed == ["tracking.zz_noisy failed and is left out from here on: OSError: the network is down"]
    assert noisy == ["start", 1, 2, "close"]
    assert runs.result(directory)["status"] == "completed"
    check_holds_every_number_once("tensorboard", directory)


def test_missed_values_are_sent_on_resume(tmp_path, noisy):
    directory = begin(tmp_path, {**NONE, "zz_noisy": {"at": 2}})
    assert noisy == ["start", 1, 2, "close"]
    directory.joinpath("result.json").unlink()  # as if the process had died before writing it
    noisy.clear()
    raw = yaml.safe_load((directory / "config.yaml").read_text())
    raw["tracking"]["zz_noisy"]["at"] = 99
    (directory / "config.yaml").write_text(yaml.safe_dump(raw))
    go_on(directory)
    assert noisy == ["start", 2, 3, "completed", "close"]


def test_unwritable_folder_disables_only_its_tracker(name, tmp_path, capsys):
    prepared = create_run(runs.write(tmp_path, settings({**NONE, name: True})), out=tmp_path / "run")
    place = {"tensorboard": "tensorboard", "mlflow": "mlflow.db", "wandb": "wandb"}[name]
    blocked = prepared.directory.path / place
    blocked.mkdir() if name == "mlflow" else blocked.touch()
    InProcess().run(Job.of(prepared))
    assert runs.result(prepared.directory.path)["status"] == "completed"
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tracking.")]
    assert Counter(line.split(" ")[0] for line in printed) == {f"tracking.{name}": 1}, printed


def test_directory_without_valid_uri_disables_only_mlflow(tmp_path, capsys):
    tracked.require("mlflow")
    directory = runs.run(tmp_path / "50%", settings({**NONE, "mlflow": True}))
    assert runs.result(directory)["status"] == "completed"
    message = f"tracking.mlflow failed and is left out from here on: the run directory is {directory}, and the address "
    assert message in capsys.readouterr().out


def test_unreachable_server_disables_only_mlflow(tmp_path, capsys):
    tracked.require("mlflow")
    directory = runs.run(tmp_path, settings({**NONE, "mlflow": {"uri": "http://127.0.0.1:9"}}))
    assert runs.result(directory)["status"] == "completed"
    assert "tracking.mlflow failed and is left out from here on: MlflowException: " in capsys.readouterr().out


def test_failed_run_is_tracked_as_failed(tmp_path, noisy):
    prepared = create_run(
        runs.write(tmp_path, settings({**NONE, "zz_noisy": {"at": 9}}, evaluate={"select": "accuracy"})),
        out=tmp_path / "run",
    )
    (prepared.directory.path / "model").write_text("in the way of the model's folder")
    with pytest.raises(Exception, match="model"):
        InProcess().run(Job.of(prepared))
    assert runs.result(prepared.directory.path)["status"] == "failed"
    assert noisy == ["start", 1, 2, 3, "failed", "close"]

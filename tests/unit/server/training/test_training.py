"""Training at the server: checkpoints, progress, and the threads of the evaluation."""

import io
import json
from dataclasses import fields

import pytest
import torch
from rich.console import Console

from fedrecon_core.config import Engine
from fedrecon_core.errors import RunError
from fedrecon_core.metrics.base import Metric
from fedrecon_core.registry import METRICS
from server.runs.manifest import parameter_counts
from server.training import checkpoints
from server.training.checkpoints import Best, Training
from server.training.evaluation import threads_of
from server.training.progress import PlainProgress
from strategies.messages import Accepted

pytestmark = pytest.mark.quick


# --- checkpoints ------------------------------------------------------------------------------------------------------


def state(value: float) -> dict[str, torch.Tensor]:
    return {"linear.weight": torch.full((2, 3), value), "steps": torch.tensor(int(value)), "empty": torch.zeros(0)}


def training(round_: int = 3) -> Training:
    return Training(
        round=round_,
        groups={"task.head": state(1.5), "mapping.a->b": state(2.0)},
        best_groups={"task.head": state(3.0)},
        strategy={"task.head": state(4.0)},
        best=Best(2, 0.75),
        trained={"task.head": 120},
        quality={"mapping.a->b": 0.3},
        best_trained={"task.head": 80},
        best_quality={"mapping.a->b": 0.2},
        accepted={"site-0000": Accepted(3), "site-0001": Accepted(2, {"task.head": 1})},
        bytes_down=10**12,
        bytes_up=7,
        wire_bytes=9,
        train_seconds=1.25,
        train_processor_seconds=0.75,
    )


def test_everything_comes_back(tmp_path):
    checkpoints.save(tmp_path, training())
    back = checkpoints.load_newest(tmp_path)
    for field in fields(Training):
        given, found = getattr(training(), field.name), getattr(back, field.name)
        if field.name not in ("groups", "best_groups", "strategy"):
            assert found == given, field.name
            continue
        assert found.keys() == given.keys()
        for group in given:
            assert found[group].keys() == given[group].keys()
            for name, tensor in given[group].items():
                assert torch.equal(found[group][name], tensor)
                assert found[group][name].dtype == tensor.dtype


def test_of_a_checkpoint_that_did_not_measure_it_processor_time_stays_unknown(tmp_path):
    checkpoints.save(tmp_path, training())
    path = next(tmp_path.glob("round-*/state.json"))
    plain = json.loads(path.read_text())
    del plain["train_processor_seconds"]
    path.write_text(json.dumps(plain))
    assert checkpoints.load_newest(tmp_path).train_processor_seconds is None


def test_groups_that_are_best_and_current_at_once_are_kept_as_both(tmp_path):
    given = training()
    given.best_groups = given.groups
    checkpoints.save(tmp_path, given)
    assert checkpoints.load_newest(tmp_path).best_groups.keys() == given.groups.keys()


@pytest.mark.parametrize("exists", [True, False])
def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path, exists):
    assert checkpoints.load_newest(tmp_path if exists else tmp_path / "nowhere") is None


def test_the_newest_by_number_is_loaded_and_two_are_kept(tmp_path):
    for round_ in (8, 9, 10, 11):
        checkpoints.save(tmp_path, training(round_))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000010", "round-000011"]
    assert checkpoints.load_newest(tmp_path).round == 11


def test_a_round_that_is_saved_again_replaces_the_first_attempt(tmp_path):
    checkpoints.save(tmp_path, training(1))
    again = training(1)
    again.bytes_up = 99
    checkpoints.save(tmp_path, again)
    assert checkpoints.load_newest(tmp_path).bytes_up == 99


def test_what_a_crash_left_half_written_is_ignored_and_cleared_away(tmp_path):
    checkpoints.save(tmp_path, training(1))
    partial = tmp_path / ".round-000002.partial"
    partial.mkdir()
    (partial / "state.json").write_text("{")
    assert checkpoints.load_newest(tmp_path).round == 1
    checkpoints.save(tmp_path, training(2))
    assert not partial.exists()


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("fault", ["cut", "gone", "garbage"])
def test_a_damaged_checkpoint_is_one_clear_error_that_names_it(tmp_path, file, fault):
    checkpoints.save(tmp_path, training(3))
    checkpoints.save(tmp_path, training(4))
    path = tmp_path / "round-000004" / file
    content = path.read_bytes()
    {
        "cut": lambda: path.write_bytes(content[: len(content) // 2]),
        "gone": path.unlink,
        "garbage": lambda: path.write_bytes(b"\x80\x04garbage"),
    }[fault]()
    with pytest.raises(RunError) as caught:
        checkpoints.load_newest(tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "round-000004") in text
    assert "remove it to resume from the previous one" in text


def test_a_damaged_checkpoint_without_another_says_so(tmp_path):
    checkpoints.save(tmp_path, training(1))
    (tmp_path / "round-000001" / "state.json").unlink()
    with pytest.raises(RunError, match="remove it to resume from the beginning: it is the only one"):
        checkpoints.load_newest(tmp_path)


def test_a_place_that_cannot_be_written_is_a_run_error_and_the_good_one_stays(tmp_path):
    checkpoints.save(tmp_path, training(1))
    (tmp_path / ".round-000002.partial").write_text("a file stands where the folder should")
    with pytest.raises(RunError, match="the previous checkpoint is kept"):
        checkpoints.save(tmp_path, training(2))
    assert checkpoints.load_newest(tmp_path).round == 1


def test_files_are_json_and_safetensors_and_nothing_that_runs_code_when_loaded(tmp_path):
    checkpoints.save(tmp_path, training())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".json":
            json.loads(content)
        else:
            length = int.from_bytes(content[:8], "little")
            json.loads(content[8 : 8 + length])


def test_the_manifest_counts_parameters_by_group():
    assert parameter_counts(training().groups) == {"mapping.a->b": 7, "task.head": 7}


# --- progress ---------------------------------------------------------------------------------------------------------


LINE = {"round": 2, "split": "validation", "n": 12, "loss": 0.5, "accuracy": 0.75, "uar": 0.7, "macro_f1": 0.6}


def shown(validation) -> str:
    text = io.StringIO()
    PlainProgress(Console(file=text, width=200), rounds=10).round_done(2, {"task": 1.25}, validation)
    return text.getvalue()


def test_a_round_shows_its_losses_and_every_metric():
    assert shown(LINE).startswith(
        "round  2/10  task loss 1.250  validation accuracy 0.750, macro_f1 0.600, uar 0.700  ETA"
    )


def test_a_round_without_evaluation_shows_its_losses_alone():
    assert "validation" not in shown(None)


def test_a_metric_that_was_added_is_shown_where_the_line_has_it():
    METRICS.register("worst")(type("Worst", (Metric,), {}))
    try:
        assert "uar 0.700, worst 0.100  " in shown({**LINE, "worst": 0.1})
        assert "worst" not in shown(LINE)
    finally:
        METRICS.forget("worst")


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "device", "threads"),
    [
        (Engine(workers=3), "cpu", 3),
        (Engine(), "cpu", 1),
        (Engine(name="ray", workers=3), "cpu", 3),
        (Engine(name="ray", workers=3, ray_address="host:6379"), "cpu", 1),
        (Engine(name="deployment", workers=3), "cpu", 1),
        (Engine(workers=3), "cuda", 1),
    ],
)
def test_the_server_reads_as_many_batches_at_a_time_as_workers_wait_on_its_own_machine(engine, device, threads):
    assert threads_of(engine, torch.device(device)) == threads

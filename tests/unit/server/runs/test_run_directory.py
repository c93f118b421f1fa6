"""The run directory: refused when taken, lines that survive a crash, files replaced whole, one process at a time."""

import json
import subprocess
import sys
import threading
import time

import pytest

import server.app
from fedrecon_core.errors import RunError, UsageError
from fedrecon_core.files import replace_file
from server.runs.directory import RunDirectory, write_text
from server.runs.setup import RunSetup, create_run, open_run, resume_run, start_run
from tests.helpers.runs import write
from tests.helpers.toy import toy_settings

pytestmark = pytest.mark.quick


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create("seed: 1\n")
    return made


def rounds(directory: RunDirectory) -> list[tuple[int, str]]:
    lines = (directory.path / "metrics.jsonl").read_text().splitlines()
    return [(line["round"], line["split"]) for line in map(json.loads, lines)]


LINES = [{"round": r, "split": split, "loss": 0.1} for r in (1, 2, 3) for split in ("train", "validation")]


def test_a_new_directory_holds_its_config(directory):
    assert [path.name for path in directory.path.iterdir()] == ["config.yaml"]
    assert directory.config.read_text() == "seed: 1\n"


def test_a_damaged_file_that_a_resume_needs_is_one_clear_line(directory):
    path = directory.path / "manifest.json"
    assert directory.read_json("manifest.json") == {}
    for content in (b"[", b"[]", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"manifest\.json is damaged: expected a JSON object; restore it, or remove"):
            directory.read_json("manifest.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match=r"^cannot read .*manifest\.json: Is a directory$"):
        directory.read_json("manifest.json")


def test_missing_parents_are_made(tmp_path):
    RunDirectory(tmp_path / "a" / "b" / "run").create("x: 1\n")
    assert (tmp_path / "a" / "b" / "run" / "config.yaml").is_file()


def test_an_empty_folder_may_become_a_run(tmp_path):
    RunDirectory(tmp_path).create("x: 1\n")
    assert (tmp_path / "config.yaml").is_file()


def test_an_existing_run_is_refused_and_stays_as_it_is(directory):
    with pytest.raises(UsageError, match=r"exists already; choose another directory, or add --resume"):
        RunDirectory(directory.path).create("seed: 2\n")
    assert directory.config.read_text() == "seed: 1\n"


def test_what_a_kill_left_while_the_directory_was_made_does_not_bar_the_next_run(tmp_path):
    """The folder and half of the first file: there is no run to resume, so a new one may take the place."""
    (tmp_path / ".config.yaml.partial").write_text("na")
    with pytest.raises(UsageError, match="is not a run directory"):
        resume_run(tmp_path)
    RunDirectory(tmp_path).create("name: x\n")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"config.yaml": "name: x\n"}


@pytest.mark.parametrize("name", [".git", "notes.partial", "metrics.jsonl"])
def test_other_files_in_its_place_are_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        RunDirectory(tmp_path).create("name: x\n")


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        RunDirectory(tmp_path / "run").create("x: 1\n")


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        RunDirectory(tmp_path / "file" / "run").create("x: 1\n")


def test_folder_that_cannot_be_listed_is_refused_before_the_run(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(UsageError, match=f"--out {tmp_path} cannot be written: Permission denied"):
        RunDirectory(tmp_path).check_new()


def test_lines_are_appended(directory):
    directory.append("metrics.jsonl", LINES[:2])
    directory.append("metrics.jsonl", LINES[2:])
    written = [json.loads(text) for text in (directory.path / "metrics.jsonl").read_text().splitlines()]
    assert written == LINES


@pytest.mark.parametrize(("last", "kept"), [(0, 0), (1, 2), (2, 4), (3, 6), (9, 6)])
def test_lines_of_later_rounds_are_dropped(directory, last, kept):
    directory.append("metrics.jsonl", LINES)
    directory.drop_rounds_after("metrics.jsonl", last)
    assert rounds(directory) == [(line["round"], line["split"]) for line in LINES[:kept]]


@pytest.mark.parametrize("characters", [1, 5, 30])
def test_a_line_cut_off_by_a_crash_goes_and_appending_goes_on_cleanly(directory, characters):
    directory.append("metrics.jsonl", LINES)
    path = directory.path / "metrics.jsonl"
    path.write_text(path.read_text()[:-1][:-characters])
    directory.drop_rounds_after("metrics.jsonl", 3)
    directory.append("metrics.jsonl", LINES[-1:])
    assert rounds(directory) == [(line["round"], line["split"]) for line in LINES]


def test_a_last_line_without_its_line_break_is_kept(directory):
    directory.append("metrics.jsonl", LINES)
    path = directory.path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    directory.drop_rounds_after("metrics.jsonl", 3)
    assert len(rounds(directory)) == len(LINES)


def test_dropping_from_a_file_that_is_not_there_makes_none(directory):
    directory.drop_rounds_after("metrics.jsonl", 1)
    assert not (directory.path / "metrics.jsonl").exists()


def test_json_files_are_replaced_whole_and_leave_nothing_beside_them(directory):
    directory.write_json("result.json", {"status": "failed", "long": "x" * 1000})
    directory.write_json("result.json", {"status": "completed"})
    assert json.loads(directory.result.read_text()) == {"status": "completed"}
    assert sorted(path.name for path in directory.path.iterdir()) == ["config.yaml", "result.json"]


def test_a_file_that_cannot_be_written_is_a_run_error_naming_it(directory):
    (directory.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl"):
        directory.append("metrics.jsonl", LINES)
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl"):
        write_text(directory.path / "metrics.jsonl", "text")


def test_a_write_that_breaks_off_leaves_the_old_file_and_its_rights(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)

    def half(partial):
        partial.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_file(path, half)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "old")]
    replace_file(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_run_keeps_its_identity_and_no_two_runs_share_one(tmp_path):
    first, second = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    for made in (first, second):
        made.create("name: x\n")
    assert first.identity == RunDirectory(tmp_path / "a").identity
    assert first.identity != second.identity


def test_a_second_process_cannot_work_on_a_run_until_the_first_has_died(directory):
    code = (
        "import sys, time; from pathlib import Path; from server.runs.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, directory.path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        words = f"is in use by process {holder.pid} on .*; end that process, then resume"
        with pytest.raises(RunError, match=words), directory.lock(0.2):
            pass
    finally:
        holder.kill()
        holder.wait()
    with directory.lock(1.0):
        pass


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(tmp_path) -> RunSetup:
    """A run that has a result and is not complete."""
    made = create_run(write(tmp_path, toy_settings()), out=tmp_path / "run")
    made.directory.write_json("result.json", {"status": "failed"})
    return made


def contents(directory: RunDirectory) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.path.iterdir() if path.name != "run.lock"}


def test_a_run_that_ends_while_its_resumption_waits_for_the_lock_is_not_spoilt(failed):
    directory, held = failed.directory, threading.Event()

    def last_second() -> None:
        with directory.lock():
            held.set()
            time.sleep(0.5)
            directory.write_json("result.json", {"status": "completed"})

    ending = threading.Thread(target=last_second)
    ending.start()
    held.wait()
    with pytest.raises(UsageError, match=r"is complete; there is nothing to resume"):
        resume_run(directory.path, ["engine.workers=2"])
    ending.join()
    assert contents(directory) == {
        "config.yaml": failed.config.to_yaml(),
        "result.json": json.dumps({"status": "completed"}, indent=2) + "\n",
    }


def test_a_server_that_comes_too_late_leaves_a_complete_run_alone(failed):
    directory = failed.directory
    directory.write_json("result.json", {"status": "completed"})
    before = contents(directory)
    with pytest.raises(UsageError, match="there is nothing to resume"):
        server.app.run(None, failed)
    assert contents(directory) == before


def test_the_command_leaves_the_lock_and_the_result_to_the_process_that_runs(failed):
    directory = failed.directory
    reopened = resume_run(directory.path, ["engine.workers=2"])
    assert reopened.config.engine.workers == 2
    assert directory.result.exists()
    with directory.lock(0):
        assert start_run(failed).config.engine.workers == 2  # as the config is by now
    assert not directory.result.exists()


@pytest.mark.parametrize("name", ["run.lock", "result.json"])
def test_a_directory_that_cannot_be_written_is_one_clear_line(failed, name):
    """As on a disk that is mounted to be read only; a folder in the file's place refuses root as well."""
    directory = failed.directory
    (directory.path / name).unlink(missing_ok=True)
    (directory.path / name).mkdir()
    advice = "free disk space or correct the permissions of the run directory, then resume"
    words = rf"cannot write .*/{name}: Is a directory; {advice}"
    with pytest.raises(UsageError, match=words), directory.lock():
        start_run(open_run(directory.path))

"""The ``fedrecon`` command: exit codes, one line on stderr for each fault, nothing is started or overwritten."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.simulated_sites import write_sites
from tests.helpers.runs import caller
from tests.helpers.toy import toy_config, toy_settings, toy_spec

pytestmark = pytest.mark.quick


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command's entry point in a fresh folder; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    return caller(monkeypatch, capsys)


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(toy_settings()))
    return path


def assert_usage_error(outcome: tuple[int, str, str], *words: str) -> None:
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert err.startswith("fedrecon: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["rouns=3"], ["rouns: unknown key (found 3).", "Did you mean 'rounds'?"]),
        (["recovery.latnt=3"], ["recovery.latnt: unknown key", "'latent'"]),
        (["rounds=many"], ["rounds: expected a valid integer, found 'many'"]),
        (["missing.train.level=sample", "missing.train.rate=1.5"], ["missing.train.rate", "between 0 and 1", "1.5"]),
        (["missing.train.level=sample", "missing.train.rate={steps: 2}"], ["missing.train.rate.steps", "found 2"]),
        (
            [
                "sites.count=2",
                "missing.train.level=profile",
                "missing.train.profile=[{sites: 10, modalities: [steps]}]",
            ],
            ["missing.train.profile", "2 sites", "found 10"],
        ),
        (["recovery=wizard"], ["recovery: unknown recovery 'wizard'; known: fedrecon"]),
        (
            ["data.root=nowhere"],
            [
                "data.root: expected an existing folder",
                "nowhere (a path that is not absolute begins at the config file)",
            ],
        ),
        (["data.root=/no/where"], ["data.root: expected an existing folder or file, found no /no/where (a path"]),
        (["rounds"], ["--set expects key=value, found 'rounds'"]),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2_and_makes_no_directory(command, config, tmp_path, settings, words):
    flags = [flag for setting in settings for flag in ("--set", setting)]
    out = tmp_path / "out"
    assert_usage_error(command("run", config, "--out", out, *flags), *words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("a: [1,", "is not valid YAML"),
        ("- a list", "must contain a mapping of keys, found list"),
        ("data: toy\n", "recovery: this key is required"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(command, tmp_path, content, words):
    path = tmp_path / "other.yaml"
    if content is not None:
        path.write_text(content)
    assert_usage_error(command("run", path), words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments", [["run", "--nonsense"], ["nonsense"], ["run", "--engine", "steam"], ["run", "a.yaml", "b.yaml"]]
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(command, arguments):
    assert_usage_error(command(*arguments))


def test_help_lists_the_commands(command):
    code, out, _ = command("--help")
    assert code == 0
    for name in ("run", "check", "report"):
        assert name in out


def test_help_of_run_lists_its_options(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = command("run", "--help")
    assert code == 0
    for option in ("--set", "--engine", "--out", "--resume"):
        assert option in out


def test_check_prints_the_resolved_config(command, config):
    code, out, err = command("check", config, "--set", "rounds=7")
    assert (code, err) == (0, "")
    resolved = yaml.safe_load(out)
    assert resolved["rounds"] == 7
    assert resolved["recovery"]["ggfs"] == {"enabled": True, "refresh": "round"}


@pytest.mark.parametrize(("rounds", "expected"), [(1, "4 sites, 1 round, seed"), (2, "4 sites, 2 rounds, seed")])
def test_one_round_is_announced_as_one(command, config, tmp_path, rounds, expected):
    code, out, _ = command("run", config, "--set", f"rounds={rounds}", "--out", tmp_path / "out")
    assert code == 0 and expected in out


def test_an_existing_run_directory_is_refused_and_left_alone(command, config, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")
    assert_usage_error(command("run", config, "--out", out), str(out), "--resume")
    assert [path.name for path in out.iterdir()] == ["result.json"]


def test_a_file_in_the_place_of_the_run_directory_is_refused(command, config, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert_usage_error(command("run", config, "--out", "out"), str(tmp_path / "out"))


def test_a_run_directory_below_a_file_is_refused(command, config, tmp_path):
    (tmp_path / "file").write_text("a file")
    assert_usage_error(command("run", config, "--out", tmp_path / "file" / "out"), "cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_run_directory_is_refused(command, config, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert_usage_error(command("run", config, "--out", tmp_path / "closed" / "out"), "cannot be written")


def test_resume_without_a_directory_says_which_option_is_missing(command):
    assert_usage_error(command("run", "--resume"), "--resume needs --out")


def test_resume_of_what_is_no_run_is_refused(command, tmp_path):
    assert_usage_error(command("run", "--resume", "--out", tmp_path), "is not a run directory")


def test_resume_takes_no_config_of_its_own(command, config, tmp_path):
    assert_usage_error(command("run", config, "--resume", "--out", tmp_path), "leave CONFIG out")


def test_resume_of_a_deployment_takes_no_config_of_its_own(command, config, tmp_path):
    outcome = command("run", config, "--resume", "--out", tmp_path, "--engine", "deployment")
    assert_usage_error(outcome, "leave CONFIG out")


@pytest.mark.parametrize("resumed", [False, True])
def test_a_superlink_without_a_deployment_is_refused(command, config, tmp_path, resumed):
    arguments = ["--resume", "--out", tmp_path / "at-the-superlink"] if resumed else [config, "--out", tmp_path / "out"]
    outcome = command("run", *arguments, "--superlink", "hospitals")
    assert_usage_error(
        outcome, "--superlink hospitals: expected a deployment, found a simulation", "--engine deployment"
    )
    assert not (tmp_path / "out").exists()


def test_a_config_that_names_a_superlink_can_be_simulated(command, tmp_path):
    """Only who names one on the command line expects it to be used."""
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(toy_settings(engine={"name": "deployment", "superlink": "hospitals"})))
    (tmp_path / "out").write_text("a file")
    assert_usage_error(command("run", path, "--engine", "inprocess", "--out", "out"), "is a file")


def test_a_place_is_not_read_as_markup(command, config, tmp_path):
    out = tmp_path / "[" / "x]"
    code, predicted, err = command("run", config, "--out", out, "--set", "rounds=1", "--set", "recovery=mask")
    assert (code, err) == (0, "")
    assert f"run directory {out}\n" in predicted
    assert f"report {out}/report.html\n" in predicted


def test_resume_changes_nothing_but_the_engine(command, config, tmp_path):
    (tmp_path / "config.yaml").write_text(config.read_text())
    outcome = command("run", "--resume", "--out", tmp_path, "--set", "rounds=9")
    assert_usage_error(outcome, "'rounds=9' would change it")


def test_a_report_of_what_is_no_run_is_one_line(command, tmp_path):
    code, _, err = command("report", tmp_path / "nothing")
    assert code in (1, 2)
    assert err.startswith("fedrecon: ")
    assert err.count("\n") == 1


def test_a_ray_cluster_needs_the_ray_engine(command, config):
    outcome = command("run", config, "--ray-address", "127.0.0.1:6379")
    assert_usage_error(outcome, "engine.ray_address", "with engine inprocess (it applies to ray only), found 127.0.0.1")


# --- folders of the wrong kind --------------------------------------------------------------------------------------


def content() -> FolderContent:
    none = np.zeros(0, dtype=np.int64)
    return FolderContent(toy_spec(), Samples(none, none, none, none, np.zeros((0, 3), dtype=np.bool_)), {}, {})


WRITERS = {
    "write_folder": lambda out: write_folder(out, content()),
    "write_sites": lambda out: list(write_sites(toy_config("mask"), out)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, name):
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(DataError, match=r"out: expected a new or empty folder, found a file; choose another one"):
        WRITERS[name](out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_with_something_in_it_is_left_alone(tmp_path, name):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(DataError, match="expected a new or empty folder, found files in it; choose another one"):
        WRITERS[name](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]

"""The commands for runs on a SuperLink: what a person reads, and what Flower's command is asked for."""

import io
import json
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml
from flwr.app import Context, RecordDict

import server.app
from fedrecon_core.errors import ConfigError, FedReconError, RunError, UsageError
from server import cli
from server.engines import flower, superlink
from server.engines.run_log import ErrorFilter
from tests.helpers.toy import toy_settings

pytestmark = pytest.mark.quick

DEFAULT = "[superlink]\ndefault = 'near'\n\n[superlink.near]\naddress = '{address}'\n"
FAILED = "ServerApp failed with exception: "
RUN = {"run-id": "7", "status": "finished:failed", "pending-at": "then", "finished-at": "now"}


class FakeFlower:
    """Answers instead of ``flwr``; ``asked`` holds what it was asked, and ``seconds`` how long it could take."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.seconds: dict[str, float] = {}
        self.out: list[str] = []
        self.runs = [{**RUN, "status-details": "N/A"}]
        self.fails: BaseException | None = None
        self.log = ""

    def ask(self, *arguments: str, surroundings, seconds: float = flower.COMMAND_SECONDS) -> str:
        self.asked.append(list(arguments))
        self.seconds[arguments[0]] = seconds
        if self.fails is not None:
            raise self.fails
        if arguments[0] == "log":
            return self.log
        if arguments[0] == "run":
            told = Path(arguments[arguments.index("--run-config") + 1]).read_text()
            self.run_config = tomllib.loads(told)
            self.out += [line for line in told.splitlines() if line.startswith("out = ")]
        return "chatter\n" + json.dumps({"success": True, "run-id": "7", "runs": self.runs})


@pytest.fixture
def flwr(monkeypatch, tmp_path) -> FakeFlower:
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(DEFAULT.format(address="127.0.0.1:8000"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    fake = FakeFlower()
    monkeypatch.setattr(flower, "ask", fake.ask)
    monkeypatch.setattr(flower, "program", lambda name: "/bin/false")
    return fake


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrecon", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "federation.yaml"
    settings = toy_settings(data={"name": "sites"}, engine={"name": "deployment", "superlink": "hospitals"})
    path.write_text(yaml.safe_dump(settings))
    return path


def run_directory(folder: Path, engine: str) -> Path:
    """The beginning of a run with ``engine``, as far as a command looks at it."""
    folder.mkdir()
    data = {"name": "sites"} if engine == "deployment" else {"name": "toy"}
    (folder / "config.yaml").write_text(yaml.safe_dump(toy_settings(data=data, engine={"name": engine})))
    return folder


# --- runs, stop ---------------------------------------------------------------------------------------------------


def test_runs_shows_what_a_site_said_as_it_was_said(flwr, command):
    flwr.runs[0]["status-details"] = f"{FAILED}site [/x] [bold]: no\n  room (exit code 2)"
    code, out, err = command("runs")
    assert (code, err) == (0, "")
    assert "site [/x] [bold]: no room" in out
    assert "exit code" not in out


@pytest.mark.parametrize(
    ("log", "directory"),
    [("Using SuperLink: x\nrun directory /runs/a b\nround 1/2\n", "'/runs/a b'"), ("round 1/2\n", "DIR")],
)
def test_stop_says_how_to_go_on(flwr, command, log, directory):
    flwr.log = log
    code, out, _ = command("stop", "7", "--superlink", "hospitals")
    assert code == 0
    resume = f"fedrecon run --resume --out {directory} --engine deployment --superlink hospitals"
    assert out == f"stopped run 7; resume with: {resume}\n"


def test_an_unknown_run_is_pointed_to_the_list_on_the_same_superlink(flwr, command):
    flwr.runs = []
    code, _, err = command("follow", "8", "--superlink", "hospitals")
    assert code == 2
    assert err == ("fedrecon: the SuperLink has no run 8; `fedrecon runs --superlink hospitals` lists its runs\n")


def test_a_run_that_flower_does_not_find_is_told_alike(flwr, command):
    flwr.fails = RunError("flwr list: [code: 16] Run ID not found.")
    code, _, err = command("stop", "8", "--superlink", "hospitals")
    assert code == 2
    assert err == "fedrecon: the SuperLink has no run 8; `fedrecon runs --superlink hospitals` lists its runs\n"


@pytest.mark.parametrize("run_id", ["79184126...", "--help", "x"])
def test_what_is_no_id_is_not_asked_for(flwr, command, run_id):
    code, _, err = command("stop", "--superlink", "hospitals", "--", run_id)
    assert code == 2
    assert f"the SuperLink has no run {run_id}; " in err
    assert flwr.asked == []


@pytest.mark.parametrize("arguments", [("runs",), ("stop", "7"), ("follow", "7")], ids=lambda words: words[0])
@pytest.mark.parametrize("address", [":local:", ":local-in-memory:", None])
def test_default_connection_that_starts_a_simulation_is_refused(flwr, command, tmp_path, arguments, address):
    path = tmp_path / "flwr" / "config.toml"
    path.write_text(DEFAULT.format(address=address)) if address else path.unlink()
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err == (
        "fedrecon: --superlink: expected a connection to a SuperLink, but Flower's default connection starts a "
        "simulation on this machine; name one with --superlink NAME (`flwr config list` shows the names)\n"
    )
    assert flwr.asked == []


def test_ids_are_whole_where_the_list_goes_into_a_pipe(flwr, command):
    flwr.runs[0]["run-id"] = "18303528234992034461"
    flwr.runs[0]["status-details"] = "a long reason " * 20
    _, out, _ = command("runs", "--superlink", "hospitals")
    assert "18303528234992034461" in out
    assert "SuperLink: hospitals" in out


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "\nAn unexpected error occurred while reading the Flower configuration file (/x/config.toml). No SuperLink "
            "connection set. Specify a default SuperLink connection by adding: \n\n[superlink]\ndefault = 'name'\n\n"
            "to the Flower configuration file (/x/config.toml).",
            "No SuperLink connection set. Specify a default SuperLink connection by adding: [superlink] default = "
            "'name' to the Flower configuration file (/x/config.toml).",
        ),
        ("Using SuperLink: far (127.0.0.1:9)\n Listing all runs...\n\nIt is unavailable.", "It is unavailable."),
        ("", "no answer"),
    ],
)
def test_what_flower_says_of_a_failure_is_told_whole_and_without_its_chatter(flwr, command, monkeypatch, said, told):
    answer = json.dumps({"success": False, "error-message": said})
    monkeypatch.setattr(flower, "ask", lambda *arguments, **options: answer)
    code, _, err = command("runs")
    assert (code, err) == (1, f"fedrecon: flwr list: {told}\n")


# --- run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "out", "where"),
    [
        (["--out", "runs/first"], "{here}/runs/first", "{here}/runs/first, on the ServerApp's machine"),
        ([], "runs/toy-", "in the ServerApp's working directory"),
    ],
)
def test_a_submitted_run_says_where_its_directory_is(flwr, command, config, tmp_path, options, out, where):
    flwr.runs[0]["status"] = "finished:stopped"
    code, said, err = command("run", config, *options)
    assert said.startswith("submitted as run 7; its run directory is ")
    assert where.format(here=tmp_path) in said.splitlines()[0]
    assert flwr.out[0].startswith(f'out = "{out.format(here=tmp_path)}')
    known = out.format(here=tmp_path) if options else "DIR"  # its log, which would tell, is empty
    resume = f"fedrecon run --resume --out {known} --engine deployment --superlink hospitals"
    assert (code, err) == (1, f"fedrecon: run 7 was stopped; resume with: {resume}\n")


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (RunError("'flwr run' did not answer in 120 s"), 1, "'flwr run' did not answer in 120 s; "),
        (KeyboardInterrupt(), 130, "interrupted while submitting; "),
    ],
)
def test_a_submission_without_an_answer_may_have_come_through(flwr, command, config, monkeypatch, fault, code, words):
    monkeypatch.setattr(superlink, "DOUBT_SECONDS", -1.0)  # as if it had taken long
    flwr.fails = fault
    mark_stale = (
        "the run may have been submitted: check with `fedrecon runs --superlink hospitals` before you submit it again"
    )
    assert command("run", config) == (code, "", f"fedrecon: {words}{mark_stale}\n")


def test_a_refused_submission_is_no_riddle_and_a_slow_one_gets_time(flwr, command, config):
    flwr.fails = RunError("flwr run: no")
    assert command("run", config) == (1, "", "fedrecon: flwr run: no\n")
    assert flwr.seconds["run"] > 100


def test_what_lies_here_at_the_path_of_a_run_elsewhere_is_no_hindrance(flwr, command, config, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sweep.yaml").write_text("name: s\naxes: {}\ncells: []\n")
    _, said, err = command("run", config, "--out", tmp_path / "runs")
    assert "submitted as run 7" in said, err


def test_a_simulated_run_is_not_resumed_at_real_sites(flwr, command, tmp_path):
    out = run_directory(tmp_path / "run", "inprocess")
    code, said, err = command("run", "--resume", "--out", out, "--engine", "deployment", "--superlink", "hospitals")
    reason = f"the run in {out} was begun with engine inprocess, and engine deployment has other sites and data"
    assert (code, said, err) == (2, "", f"fedrecon: {reason}; resume with: fedrecon run --resume --out {out}\n")
    assert flwr.asked == []


@pytest.mark.parametrize("visible", [True, False])
def test_a_deployed_run_is_resumed_whether_its_directory_is_visible_or_not(flwr, command, tmp_path, visible):
    out = run_directory(tmp_path / "run", "deployment") if visible else tmp_path / "elsewhere"
    flwr.runs[0]["status"] = "finished:stopped"
    _, said, _ = command("run", "--resume", "--out", out, "--engine", "deployment", "--superlink", "hospitals")
    assert said.startswith(f"submitted as run 7; its run directory is {out}, on the ServerApp's machine\n")
    assert flwr.asked[0][0] == "run"
    assert flwr.asked[0][2] == "hospitals"


def test_what_a_resume_changes_goes_with_it(flwr, command, tmp_path):
    out = run_directory(tmp_path / "run", "deployment")
    flwr.runs[0]["status"] = "finished:stopped"
    options = ["--engine", "deployment", "--set", "sites.min=2"]
    command("run", "--resume", "--out", out, *options)
    assert json.loads(flwr.run_config["settings"]) == ["sites.min=2"]
    code, _, err = command("run", "--resume", "--out", out, *options, "--set", "rounds=9")
    assert code == 2
    assert "'rounds=9' would change it" in err


def test_the_server_app_refuses_to_take_a_simulation_to_real_sites(tmp_path):
    out = run_directory(tmp_path / "run", "inprocess")
    error = ends_with({"config": "", "out": str(out), "resume": True, "settings": "[]"})
    assert "was begun with engine inprocess, and engine deployment has other sites" in str(error)


# --- the exit code --------------------------------------------------------------------------------------------------


def ends_with(run_config: dict) -> FedReconError:
    with pytest.raises(FedReconError) as raised, redirect_stdout(io.StringIO()):
        server.app.app(None, Context(1, 1, {}, RecordDict(), run_config))
    return raised.value


def test_a_fault_of_the_user_reaches_the_command_with_its_exit_code(tmp_path):
    error = ends_with({"config": "", "out": str(tmp_path), "resume": True})
    told = flower.raised(f"{FAILED}{error}")
    assert isinstance(told, UsageError)
    assert str(told) == f"--resume: {tmp_path} is not a run directory (it has no config.yaml)"


def test_a_command_beside_the_server_app_gets_the_error_itself(tmp_path):
    error = ends_with({"config": str(tmp_path / "config.yaml"), "out": str(tmp_path), "resume": True})
    assert str(error) == f"--resume: {tmp_path} is not a run directory (it has no config.yaml)"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("rounds: no"), 2, "rounds: no"),
        (RunError("round 3: too few"), 1, "round 3: too few"),
        (KeyError("m0"), 1, "KeyError: 'm0'"),
        (ValueError("two\nlines"), 1, "ValueError: two lines"),
        (AssertionError(), 1, "AssertionError:"),
    ],
)
def test_an_error_survives_the_status_of_a_run(error, code, text):
    told = flower.raised(f"{FAILED}{flower.reportable(error)}")
    assert (told.exit_code, str(told)) == (code, text)


@pytest.mark.parametrize("details", ["N/A", "", "No heartbeat received from the task", FAILED])
def test_a_run_that_ended_otherwise_raised_nothing(details):
    assert flower.raised(details) is None


# --- faults in a log ------------------------------------------------------------------------------------------------


def shown(lines: list[str], told: bool = False) -> list[str]:
    faults = ErrorFilter()
    return [*[line for taken in lines for line in faults.take(taken)], *faults.finish(told)]


TRACE = ["Traceback (most recent call last):", '  File "a.py", line 1', "    f()", "", "    ^^^", "ValueError: odd"]


def test_what_a_run_survives_is_shown_without_frames():
    assert shown(["one", "ERROR :     x", *TRACE, "two", "three"]) == [
        "one",
        "ERROR :     x",
        "ValueError: odd",
        "two",
        "three",
    ]
    assert (
        shown([*TRACE, "", "During handling of the above exception, another exception occurred:", "", *TRACE, "two"])[
            -1
        ]
        == "two"
    )


def test_the_end_of_a_failed_run_is_hidden_where_its_status_tells_the_reason():
    end = [
        "fedrecon: no",
        "ERROR :     ServerApp raised",
        *TRACE,
        "ERROR :     Exit Code: 201",
        "",
        "An exception.",
        "x",
    ]
    assert shown(["one", *end], told=True) == ["one"]
    assert shown(["one", "ERROR :     killed"]) == ["one", "ERROR :     killed"]

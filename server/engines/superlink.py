"""A SuperLink, used through Flower's own commands: submit, list, stop and show the log of a run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon_core.errors import RunError, UsageError
from server.engines import flower

SUBMIT_SECONDS = 120.0
DOUBT_SECONDS = 20.0
"""A submission that fails after this time may have reached the SuperLink: Flower itself waits 30 s for an answer."""
CHATTER = re.compile(
    r"^\s*Using SuperLink: .*$|^.*\.\.\.\s*$"
    r"|An unexpected error occurred while reading the Flower configuration file \(.*?\)\. ",
    re.MULTILINE,
)
"""What Flower's commands print before an error."""
UNKNOWN = "Run ID not found"
LOCAL = ":local"
"""The address of a connection that starts a simulation on this machine begins with it."""
HOW_TO_CONNECT = "name one with --superlink NAME (`flwr config list` shows the names)"
DIRECTORY = re.compile(r"^run directory (?P<path>.+)$")
"""The line with the run directory in a ServerApp's log."""


@dataclass(frozen=True)
class SuperLink:
    """A connection of Flower's ``config.toml``; without a name, Flower's default connection."""

    name: str | None

    def submit(self, app: Path, run_config: str) -> str:
        """Submit the app in the folder ``app`` with the file ``run_config``; return the run's id.

        Raises:
            RunError: it failed. If the run may have been submitted nevertheless, the message says so.
        """
        began = time.monotonic()
        arguments = ("run", str(app), *self.connection(), "--run-config", run_config)
        try:
            return str(self.ask(*arguments, seconds=SUBMIT_SECONDS)["run-id"])
        except RunError as error:
            if time.monotonic() - began < DOUBT_SECONDS:
                raise
            raise RunError(f"{error}; {self.how_to_check()}") from None

    def runs(self, *options: str) -> list[dict[str, Any]]:
        """The runs of the SuperLink, newest first."""
        return list(self.ask("list", *self.connection(), *options).get("runs", []))

    def run(self, run_id: str) -> dict[str, Any]:
        """The run ``run_id``; ``UsageError`` if there is none."""
        try:
            found = self.runs("--run-id", run_id) if run_id.isdigit() else []
        except RunError as error:
            if UNKNOWN not in str(error):
                raise
            found = []
        if not found:
            raise UsageError(f"the SuperLink has no run {run_id}; `{self.command('runs')}` lists its runs")
        return found[0]

    def stop(self, run_id: str) -> None:
        """Stop a run; ``UsageError`` if there is none."""
        self.run(run_id)
        self.ask("stop", run_id, *self.connection())

    def log(self, run_id: str) -> subprocess.Popen[str]:
        """Start a process that prints the run's log from its beginning and then its new lines. It may wait forever if
        the connection stops without an error."""
        arguments = [flower.program("flwr"), "log", run_id, *self.connection(), "--stream"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(arguments, **surroundings(), **pipes, encoding="utf-8", errors="replace")

    def directory(self, run_id: str) -> str | None:
        """The run directory according to the log of the run; ``None`` if the log does not name it."""
        try:
            text = flower.ask("log", run_id, *self.connection(), "--show", surroundings=surroundings())
        except RunError:
            return None
        return next((found["path"] for line in text.splitlines() if (found := DIRECTORY.match(line))), None)

    def ask(self, *arguments: str, seconds: float = flower.COMMAND_SECONDS) -> dict[str, Any]:
        """The JSON answer of a ``flwr`` command; ``RunError`` if it failed. Its exit code is 0 even then, so that only
        the answer shows the failure."""
        text = flower.ask(*arguments, "--format", "json", surroundings=surroundings(), seconds=seconds)
        try:
            answer: dict[str, Any] = json.loads(text[text.find("{") :])
        except ValueError:
            answer = {}
        if not answer.get("success", False):
            reason = flower.one_line(CHATTER.sub("", str(answer.get("error-message", ""))))
            raise RunError(f"flwr {arguments[0]}: {reason or 'no answer'}")
        return answer

    def connection(self) -> list[str]:
        """The argument that names the connection, if it has a name. Raises ``UsageError`` if Flower's default would be
        used and starts a simulation on this machine."""
        if self.name:
            return [self.name]
        if default_is_local():
            found = "Flower's default connection starts a simulation on this machine"
            raise UsageError(f"--superlink: expected a connection to a SuperLink, but {found}; {HOW_TO_CONNECT}")
        return []

    # --- hints for the user -----------------------------------------------------------------------------------------

    def command(self, *words: str) -> str:
        """The shell command ``fedrecon`` with the arguments ``words`` and this connection."""
        options = ["--superlink", self.name] if self.name else []
        return shlex.join(["fedrecon", *words, *options])

    def how_to_follow(self, run_id: str) -> str:
        """How to follow or stop a run that continues."""
        return f"Follow it: {self.command('follow', run_id)}   stop it: {self.command('stop', run_id)}"

    def how_to_resume(self, directory: str | None) -> str:
        """How to resume a run that has ended. ``directory``: its run directory, if known."""
        words = ("run", "--resume", "--out", directory or "DIR", "--engine", "deployment")
        return f"resume with: {self.command(*words)}"

    def how_to_check(self) -> str:
        """What to do after a submission without an answer."""
        return f"the run may have been submitted: check with `{self.command('runs')}` before you submit it again"


def default_is_local() -> bool:
    """Whether the default connection in Flower's ``config.toml`` is a simulation on this machine, as in the file that
    Flower writes if there is none. A file that cannot be read is left to Flower's commands to report."""
    path = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "config.toml"
    try:
        connections = tomllib.loads(path.read_text(encoding="utf-8")).get("superlink", {})
        return str(connections[connections["default"]].get("address", LOCAL)).startswith(LOCAL)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def surroundings() -> dict[str, Any]:
    """Options of ``subprocess`` for Flower's commands: another working directory, so that packages in the user's are
    not imported, and a new session, so that Ctrl-C reaches only this process."""
    environment = {**os.environ, **flower.ENVIRONMENT}
    shared = {"env": environment, "cwd": tempfile.gettempdir()}
    return {**shared, "stdin": subprocess.DEVNULL, "start_new_session": True}

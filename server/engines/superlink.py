"""A SuperLink, asked through Flower's own commands: submit, list, stop and the log of a run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon_core.errors import RunError, UsageError
from server.engines import flower

SUBMIT_SECONDS = 120.0
DOUBT_SECONDS = 20.0
"""A submission that failed after this time may have reached the SuperLink: Flower's own patience with it is 30 s."""
_CHATTER = re.compile(
    r"^\s*Using SuperLink: .*$|^.*\.\.\.\s*$"
    r"|An unexpected error occurred while reading the Flower configuration file \(.*?\)\. ",
    re.MULTILINE,
)
"""What Flower's commands say before they tell what is wrong."""
_UNKNOWN = "Run ID not found"
DIRECTORY = re.compile(r"^run directory (?P<path>.+)$")
"""The line of a ServerApp's log that tells where the run directory lies."""


@dataclass(frozen=True)
class SuperLink:
    """A connection by name (in Flower's ``config.toml``), or Flower's default without one."""

    name: str | None

    def submit(self, app: Path, run_config: str) -> str:
        """Send the app in the folder ``app`` with the file ``run_config``; returns the run's id.

        Raises:
            RunError: it failed; the words say so where the run may have been submitted all the same.
        """
        began = time.monotonic()
        arguments = ("run", str(app), *self._named(), "--run-config", run_config)
        try:
            return str(self._ask(*arguments, seconds=SUBMIT_SECONDS)["run-id"])
        except RunError as error:
            if time.monotonic() - began < DOUBT_SECONDS:
                raise
            raise RunError(f"{error}; {self.mark_stale()}") from None

    def runs(self, *options: str) -> list[dict[str, Any]]:
        """The runs that the SuperLink knows, newest first."""
        return list(self._ask("list", *self._named(), *options).get("runs", []))

    def run(self, run_id: str) -> dict[str, Any]:
        """One run; ``UsageError`` if there is none of that id."""
        try:
            found = self.runs("--run-id", run_id) if run_id.isdigit() else []
        except RunError as error:
            if _UNKNOWN not in str(error):
                raise
            found = []
        if not found:
            raise UsageError(f"the SuperLink knows no run {run_id}; `{self.command('runs')}` lists them")
        return found[0]

    def stop(self, run_id: str) -> None:
        """End a run; ``UsageError`` if there is none of that id."""
        self.run(run_id)
        self._ask("stop", run_id, *self._named())

    def log(self, run_id: str) -> subprocess.Popen[str]:
        """A process whose output is the run's log from its beginning, as it grows. It may wait for ever on a connection
        that died without a word."""
        arguments = [flower.program("flwr"), "log", run_id, *self._named(), "--stream"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(arguments, **_surroundings(), **pipes, encoding="utf-8", errors="replace")

    def directory(self, run_id: str) -> str | None:
        """Where the run directory lies, as the log of the run tells; ``None`` if it does not."""
        try:
            text = flower.ask("log", run_id, *self._named(), "--show", surroundings=_surroundings())
        except RunError:
            return None
        return next((found["path"] for line in text.splitlines() if (found := DIRECTORY.match(line))), None)

    # --- what to type next ----------------------------------------------------------------------------------------

    def command(self, *words: str) -> str:
        """``fedrecon`` with ``words`` and this connection, for a shell."""
        named = ["--superlink", self.name] if self.name else []
        return shlex.join(["fedrecon", *words, *named])

    def hints(self, run_id: str) -> str:
        """How to go on with a run that is not watched any more."""
        return f"Watch it: {self.command('follow', run_id)}   stop it: {self.command('stop', run_id)}"

    def resuming(self, directory: str | None) -> str:
        """How to go on with a run that has ended. ``directory``: its run directory, if known."""
        words = ("run", "--resume", "--out", directory or "DIR", "--engine", "deployment")
        return f"resume with: {self.command(*words)}"

    def mark_stale(self) -> str:
        """What to do after a submission without an answer."""
        return f"the run may have been submitted: look with `{self.command('runs')}` before you submit it again"

    # --- how it is asked ------------------------------------------------------------------------------------------

    def _named(self) -> list[str]:
        return [self.name] if self.name else []

    def _ask(self, *arguments: str, seconds: float = flower.COMMAND_SECONDS) -> dict[str, Any]:
        """What a ``flwr`` command answers. It exits 0 where it failed, and says so in its answer alone."""
        text = flower.ask(*arguments, "--format", "json", surroundings=_surroundings(), seconds=seconds)
        answer = _json(text)
        if not answer.get("success", False):
            told = flower.one_line(_CHATTER.sub("", str(answer.get("error-message", ""))))
            raise RunError(f"flwr {arguments[0]}: {told or 'no answer'}")
        return answer


def _surroundings() -> dict[str, Any]:
    # From a neutral folder: what lies beside the caller must not be imported. In a session of its own, so that Ctrl-C
    # reaches this process alone.
    environment = {**os.environ, **flower.ENVIRONMENT}
    shared = {"env": environment, "cwd": tempfile.gettempdir()}
    return {**shared, "stdin": subprocess.DEVNULL, "start_new_session": True}


def _json(text: str) -> dict[str, Any]:
    """The object in what a ``flwr`` command printed; empty if there is none."""
    try:
        found: dict[str, Any] = json.loads(text[text.find("{") :])
    except ValueError:
        return {}
    return found

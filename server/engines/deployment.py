"""Engine ``deployment``: the run goes to a SuperLink that serves real sites, and this command only watches it.

The ServerApp may run on another machine; the run directory lies there. The run does not need the command: it goes on
when the command or its connection ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError, UsageError
from server.engines import flower
from server.engines.base import ENGINES, Engine, Job
from server.engines.submission import write_app

SUBMITTED = "configs/submitted.yaml"
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""How long a lost connection is tried again before the command gives up watching."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FLOWERS_OWN = re.compile(r"^(INFO|DEBUG|WARNING)\s*:|^Using SuperLink: |^Successfully installed ")
_FAULT = re.compile(r"^ERROR\s*:|^fedrecon: ")
"""Where a log tells of the failure: the reason also stands in the run's status, and a traceback is not for users."""
_RAISED = "ServerApp failed with exception: "


class DetachedError(FedReconError):
    """The command stopped watching a run that goes on."""

    exit_code = 130


@ENGINES.register("deployment")
class Deployment(Engine):
    """Submits the run and follows its log."""

    def run(self, job: Job) -> None:
        """Execute ``job``; see ``Engine.run``. ``job.out`` is a path where the ServerApp runs.

        Raises ``DetachedError`` on Ctrl-C: the run goes on.
        """
        link = SuperLink(job.superlink)
        run_id = link.submit(job)
        Console().print(f"submitted as run {run_id}", highlight=False, soft_wrap=True)
        follow(link, run_id)


def follow(link: SuperLink, run_id: str) -> None:
    """Print what the run says until it ends. Raises ``RunError`` with its reason unless it completed, ``DetachedError``
    on Ctrl-C."""
    watcher = _Watcher(link, run_id, Console())
    try:
        status, details = watcher.watch()
    except KeyboardInterrupt:
        raise DetachedError(f"stopped watching; the run goes on. {link.hints(run_id)}") from None
    if status == "finished:completed":
        return
    if status == "finished:stopped":
        raise RunError(f"run {run_id} was stopped")
    reason = flower.one_line(details)
    if reason.startswith(_RAISED):
        raise RunError(reason.removeprefix(_RAISED))
    resume = "go on with: fedrecon run --resume --out DIR --engine deployment"
    raise RunError(f"run {run_id} failed: {reason or status}; {resume}")


@dataclass
class SuperLink:
    """A connection by name (in Flower's ``config.toml``), or Flower's default without one."""

    name: str | None

    def submit(self, job: Job) -> str:
        """Send the app with its config; returns the run's id."""
        folder = Path(tempfile.mkdtemp(prefix="fedrecon-"))
        try:
            app = write_app(folder / "app", job.components, job.extra)
            run_config = flower.write_run_config(folder / "run.toml", _run_config(job, app))
            found = self._ask("run", str(app), *self._named(), "--run-config", run_config)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return str(found["run-id"])

    def runs(self, *options: str) -> list[dict[str, Any]]:
        """The runs that the SuperLink knows, newest first."""
        return list(self._ask("list", *self._named(), *options).get("runs", []))

    def run(self, run_id: str) -> dict[str, Any]:
        """One run; ``UsageError`` if there is none of that id."""
        found = self.runs("--run-id", run_id)
        if not found:
            raise UsageError(f"the SuperLink knows no run {run_id}; `fedrecon runs` lists them")
        return found[0]

    def stop(self, run_id: str) -> None:
        """End a run."""
        self._ask("stop", run_id, *self._named())

    def log(self, run_id: str) -> subprocess.Popen[str]:
        """A process whose output is the run's log from its beginning, as it grows."""
        arguments = [flower.program("flwr"), "log", run_id, *self._named(), "--stream"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(arguments, **_surroundings(), **pipes)

    def hints(self, run_id: str) -> str:
        """How to go on with a run that is not watched any more."""
        option = f" --superlink {self.name}" if self.name else ""
        return f"Watch it: fedrecon follow {run_id}{option}   stop it: fedrecon stop {run_id}{option}"

    def _named(self) -> list[str]:
        return [self.name] if self.name else []

    def _ask(self, *arguments: str) -> dict[str, Any]:
        """What a ``flwr`` command answers. It exits 0 where it failed, and says so in its answer alone."""
        answer = _json(flower.ask(*arguments, "--format", "json", surroundings=_surroundings()))
        if not answer.get("success", False):
            told = str(answer.get("error-message", "")).strip().split("\n\n")[-1]
            raise RunError(f"flwr {arguments[0]}: {flower.one_line(told) or 'no answer'}")
        return answer


class _Watcher:
    """Follows one run over a connection that may break."""

    def __init__(self, link: SuperLink, run_id: str, console: Console) -> None:
        self._link, self._run_id, self._console = link, run_id, console
        self._shown = 0

    def watch(self) -> tuple[str, str]:
        """The final status and its details."""
        lost: float | None = None
        while True:
            self._show_log()
            try:
                run = self._link.run(self._run_id)
            except RunError as error:
                lost = self._missed(lost, error)
                continue
            if lost is not None:
                self._say("the SuperLink answers again")
            lost = None
            if run["status"].startswith("finished"):
                self._show_log()
                return run["status"], str(run.get("status-details", ""))
            time.sleep(POLL_SECONDS)

    def _missed(self, lost: float | None, error: RunError) -> float:
        """The SuperLink did not answer: since when, or at last a ``RunError``."""
        now = time.monotonic()
        if lost is None:
            self._say(f"lost the SuperLink ({error}); trying again for {PATIENCE_SECONDS:g} s")
            return now
        if now - lost > PATIENCE_SECONDS:
            told = "the run goes on if the SuperLink does; after a crash of it, resume the run with --resume"
            reason = f"no word of the run for {PATIENCE_SECONDS:g} s ({error})"
            raise RunError(f"{reason}; {told}. {self._link.hints(self._run_id)}")
        time.sleep(POLL_SECONDS)
        return lost

    def _show_log(self) -> None:
        """Print the lines that were not printed yet, until the log ends or breaks off."""
        process = self._link.log(self._run_id)
        try:
            ours = 0
            for text in process.stdout or ():
                line = _COLOUR.sub("", text.rstrip("\n"))
                if _FAULT.match(line):
                    break
                if _FLOWERS_OWN.match(line):
                    continue
                ours += 1
                if ours > self._shown:
                    self._shown = ours
                    self._say(line)
        finally:
            process.terminate()
            process.wait()

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _run_config(job: Job, app: Path) -> dict[str, bool | float | int | str]:
    """The run config; the config of a new run goes into the app, that of a resumed one lies in its run directory."""
    if job.resume:
        return {"config": "", "out": str(job.out), "resume": True}
    (app / SUBMITTED).parent.mkdir(exist_ok=True)
    shutil.copyfile(job.config, app / SUBMITTED)
    return {"config": SUBMITTED, "out": str(job.out), "resume": False}


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

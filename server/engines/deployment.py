"""Engine ``deployment``: the run goes to a SuperLink that serves real sites, and this command only watches it.

The ServerApp may run on another machine; the run directory lies there. The run does not need the command: it goes on
when the command or its connection ends.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError
from server.engines import flower
from server.engines.base import ENGINES, Engine, Job
from server.engines.run_log import RunLog
from server.engines.submission import write_app
from server.engines.superlink import SuperLink

SUBMITTED = "configs/submitted.yaml"
POLL_SECONDS = 10.0
"""How often a run's status is asked for; each time is a process that works for about a second."""
PATIENCE_SECONDS = 60.0
"""How long a lost connection is tried again before the command gives up watching."""


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
        try:
            run_id = _submit(link, job)
        except KeyboardInterrupt:
            raise DetachedError(f"interrupted while submitting; {link.mark_stale()}") from None
        where = "on the ServerApp's machine" if job.out.is_absolute() else "in the ServerApp's working directory"
        _say(Console(), f"submitted as run {run_id}; its run directory is {job.out}, {where}")
        follow(link, run_id, str(job.out) if job.out.is_absolute() else None)


def follow(link: SuperLink, run_id: str, directory: str | None = None) -> None:
    """Print what the run says until it ends. ``directory``: its run directory, if known; else its log tells.

    Raises ``DetachedError`` on Ctrl-C. Unless the run completed, raises a ``FedReconError`` with its reason, and with
    the exit code that its ServerApp chose.
    """
    watcher = _Watcher(link, run_id, directory)
    try:
        status, details = watcher.watch()
    except KeyboardInterrupt:
        raise DetachedError(f"stopped watching; the run goes on. {link.hints(run_id)}") from None
    if status == "finished:completed":
        return
    resume = link.resuming(watcher.directory)
    if status == "finished:stopped":
        raise RunError(f"run {run_id} was stopped; {resume}")
    raise flower.raised(details) or RunError(f"run {run_id} failed: {flower.told(details) or status}; {resume}")


class _Watcher:
    """Follows one run over a connection that may break."""

    def __init__(self, link: SuperLink, run_id: str, directory: str | None) -> None:
        self._link, self._run_id, self._known = link, run_id, directory
        self._console = Console()
        self._log = RunLog(lambda: link.log(run_id), self._say)
        self._lost: float | None = None

    @property
    def directory(self) -> str | None:
        """The run directory, if known or told by the log."""
        return self._log.directory or self._known

    def watch(self) -> tuple[str, str]:
        """The final status and its details."""
        try:
            while not (run := self._asked()).get("status", "").startswith("finished"):
                self._log.ended.wait(POLL_SECONDS)  # it ends with the run, or when the connection breaks
                self._log.ended.clear()
            details = str(run.get("status-details", ""))
            if not self._log.finish(told=flower.raised(details) is not None):
                self._say("(the end of the log could not be read)")
            return run["status"], details
        finally:
            self._log.close()

    def _asked(self) -> dict[str, Any]:
        """What the SuperLink knows of the run; nothing if it does not answer. The log is read while it does."""
        try:
            run = self._link.run(self._run_id)
        except RunError as error:
            self._missed(error)
            return {}
        back = self._lost is not None
        self._lost = None
        if back:
            self._say("the SuperLink answers again")
        if not run["status"].startswith("finished"):
            self._log.tend(doubtful=back)
        return run

    def _missed(self, error: RunError) -> None:
        """The SuperLink did not answer; ``RunError`` if it has not for too long."""
        now = time.monotonic()
        if self._lost is None:
            self._lost = now
            self._say(f"lost the SuperLink ({error}); trying again for {PATIENCE_SECONDS:g} s")
        elif now - self._lost > PATIENCE_SECONDS:
            reason = f"no word of the run for {PATIENCE_SECONDS:g} s ({error}); it goes on if the SuperLink does"
            hints = f"{self._link.hints(self._run_id)}   after a crash, {self._link.resuming(self.directory)}"
            raise RunError(f"{reason}. {hints}")

    def _say(self, line: str) -> None:
        _say(self._console, line)


def _submit(link: SuperLink, job: Job) -> str:
    """Send the app with its config; returns the run's id."""
    folder = Path(tempfile.mkdtemp(prefix="fedrecon-"))
    try:
        app = write_app(folder / "app", job.components, job.extra)
        return link.submit(app, flower.write_run_config(folder / "run.toml", _run_config(job, app)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_config(job: Job, app: Path) -> dict[str, bool | float | int | str]:
    """The run config; the config of a new run goes into the app, that of a resumed one lies in its run directory."""
    if job.resume:
        return {"config": "", "out": str(job.out), "resume": True, "settings": json.dumps(job.settings)}
    (app / SUBMITTED).parent.mkdir(exist_ok=True)
    shutil.copyfile(job.config, app / SUBMITTED)
    return {"config": SUBMITTED, "out": str(job.out), "resume": False}


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)

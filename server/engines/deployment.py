"""Engine ``deployment``: submit the run to a SuperLink with real sites, and show its log.

The ServerApp, and with it the run directory, may be on another machine. The run does not depend on the command: it
continues when the command or its connection ends.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError
from server.engines import flower
from server.engines.base import ENGINES, Engine, Job
from server.engines.run_log import RunLog
from server.engines.submission import write_app
from server.engines.superlink import SuperLink

SUBMITTED = "configs/submitted.yaml"
POLL_SECONDS = 10.0
"""Interval of the requests for a run's status. Each starts a process that takes about a second."""
PATIENCE_SECONDS = 60.0
"""How long the command tries to restore a lost connection before it stops following the run."""


class DetachedError(FedReconError):
    """The command stopped following a run that continues."""

    exit_code = 130


@ENGINES.register("deployment")
class Deployment(Engine):
    """Submits the run and shows its log."""

    def run(self, job: Job) -> None:
        """Execute ``job``; see ``Engine.run``. ``job.out`` is a path on the ServerApp's machine.

        Raises ``DetachedError`` on Ctrl-C: the run continues.
        """
        link = SuperLink(job.superlink)
        try:
            with tempfile.TemporaryDirectory(prefix="fedrecon-", ignore_cleanup_errors=True) as name:
                folder = Path(name)
                app = write_app(folder / "app", job.components, job.extra)
                config: dict[str, bool | float | int | str] = {"config": "", "out": str(job.out), "resume": job.resume}
                if job.resume:  # the config of the run is in its run directory
                    config["settings"] = json.dumps(job.settings)
                else:
                    config["config"] = SUBMITTED
                    (app / SUBMITTED).parent.mkdir(exist_ok=True)
                    shutil.copyfile(job.config, app / SUBMITTED)
                run_id = link.submit(app, flower.write_run_config(folder / "run.toml", config))
        except KeyboardInterrupt:
            raise DetachedError(f"interrupted while submitting; {link.how_to_check()}") from None
        place = "on the ServerApp's machine" if job.out.is_absolute() else "in the ServerApp's working directory"
        show(Console(), f"submitted as run {run_id}; its run directory is {job.out}, {place}")
        follow(link, run_id, str(job.out) if job.out.is_absolute() else None)


def follow(link: SuperLink, run_id: str, directory: str | None = None) -> None:
    """Print the log of a run until the run ends. ``directory``: its run directory, if known.

    Raises ``DetachedError`` on Ctrl-C. If the run did not complete, raises a ``FedReconError`` with the reason and the
    exit code of its ServerApp.
    """
    follower = LogFollower(link, run_id, directory)
    try:
        status, details = follower.follow()
    except KeyboardInterrupt:
        raise DetachedError(f"stopped following; the run continues. {link.how_to_follow(run_id)}") from None
    if status == "finished:completed":
        return
    resume = link.how_to_resume(follower.directory)
    if status == "finished:stopped":
        raise RunError(f"run {run_id} was stopped; {resume}")
    raise flower.raised(details) or RunError(f"run {run_id} failed: {flower.reason(details) or status}; {resume}")


class LogFollower:
    """Follows one run over a connection that may break."""

    def __init__(self, link: SuperLink, run_id: str, directory: str | None) -> None:
        self.link, self.run_id, self.known = link, run_id, directory
        self.console = Console()
        self.log = RunLog(lambda: link.log(run_id), lambda line: show(self.console, line))
        self.lost: float | None = None
        """When the SuperLink stopped answering; None while it answers."""

    @property
    def directory(self) -> str | None:
        """The run directory, if it was given or is in the log."""
        return self.log.directory or self.known

    def follow(self) -> tuple[str, str]:
        """Show the log until the run ends; return the run's final status and its details."""
        try:
            while not (run := self.poll()).get("status", "").startswith("finished"):
                self.log.ended.wait(POLL_SECONDS)  # set when the run ends, or when the connection breaks
                self.log.ended.clear()
            details = run.get("status-details", "")
            if not self.log.finish(known_reason=flower.raised(details) is not None):
                show(self.console, "(the end of the log could not be read)")
            return run["status"], details
        finally:
            self.log.close()

    def poll(self) -> dict[str, str]:
        """Return the run's status, and keep the log open while the SuperLink answers. The status is empty if it does
        not answer; ``RunError`` if it has not answered for ``PATIENCE_SECONDS``."""
        try:
            run = self.link.run(self.run_id)
        except RunError as error:
            now = time.monotonic()
            if self.lost is None:
                self.lost = now
                show(self.console, f"lost the SuperLink ({error}); retrying for {PATIENCE_SECONDS:g} s")
            elif now - self.lost > PATIENCE_SECONDS:
                raise RunError(
                    f"the SuperLink has not answered for {PATIENCE_SECONDS:g} s ({error}); the run continues if the "
                    f"SuperLink does. {self.link.how_to_follow(self.run_id)}   after a crash, "
                    f"{self.link.how_to_resume(self.directory)}"
                ) from None
            return {}
        back, self.lost = self.lost is not None, None
        if back:
            show(self.console, "the SuperLink answers again")
        if not run["status"].startswith("finished"):
            self.log.keep_open(restart=back)
        return run


def show(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)

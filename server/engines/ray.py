"""Engine ``ray``: the run goes through Flower's own commands to its simulation on Ray.

A SuperLink is started for this one run, on a port and with a Flower home of its own, from an empty folder: Ray's
workers import from the working directory before they look into the app bundle, and would run another project's
``client`` package if they were started beside one. Everything that is started carries a mark by which it is found and
ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon_core.errors import FedReconError, RunError, UsageError
from server.engines import flower, processes
from server.engines.base import ENGINES, Engine, Job
from server.engines.submission import write_app
from server.runs.readers import json_in

CONNECTION = "fedrecon"
START_SECONDS = 60.0
CLUSTER_SECONDS = 10.0
POLL_SECONDS = 2.0
NODES = 64
"""Most nodes of a simulation: they only lend the sites their hands. Flower goes over all messages that wait, for every
node and ten times a second, so that a node for each site would make a round dearer with every site that exists."""
# Ray's sockets lie up to 70 characters below its folder, and a socket's path has at most 107.
LONGEST_FOLDER = 30


@ENGINES.register("ray")
class Ray(Engine):
    """Runs the sites as Ray actors: ``workers`` at a time, or as many as a cluster at ``ray_address`` has cpus for.

    The machines of a cluster need the run directory and the data under the same paths, and this environment.
    """

    def run(self, job: Job) -> None:
        """Execute ``job``; see ``Engine.run``. What Flower and Ray say goes to ``engine.log`` in the run directory.

        Nothing that was started is left behind, whether the run completes, fails, or is interrupted.
        """
        before = _stamp(job)
        with _terminable(), _private_folder() as folder:
            session = _Session(folder, job.out / "engine.log")
            try:
                session.start(job.ray_address)
                session.submit(job)
                status, details = session.status()
            finally:
                session.close()
        if status != "finished:completed":
            raise _told(job, before) or RunError(f"{_failure(status, details)}; see {session.log}")


@dataclass
class _Session:
    """One SuperLink and the commands that talk to it."""

    folder: Path
    log: Path
    _superlink: subprocess.Popen[bytes] | None = None
    _unfinished: bool = False

    def __post_init__(self) -> None:
        self.token = self.folder.name  # all that is started here works below the folder
        for name in ("home", "empty", "ray", "app"):
            (self.folder / name).mkdir()
        programs = str(Path(sys.executable).parent)
        self._environment = {
            **os.environ,
            **flower.ENVIRONMENT,
            **processes.environment(self.token),
            "FLWR_HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            # A proxy for the world outside would be asked for our own SuperLink, too.
            **{name: f"127.0.0.1,localhost,{os.environ.get(name, '')}" for name in ("NO_PROXY", "no_proxy")},
        }

    def start(self, ray_address: str | None) -> None:
        """Start the SuperLink and wait until it listens; ``RunError`` if it does not. Ray itself is started by the run,
        or found at ``ray_address``."""
        if ray_address is not None:
            require_cluster(ray_address, "engine.ray_address")
            self._environment["RAY_ADDRESS"] = ray_address  # Flower passes no address on, and Ray looks here
        port = _free_port()
        address = f"127.0.0.1:{port}"
        connection = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        (self.folder / "home" / "config.toml").write_text(f'{connection}address = "{address}"\ninsecure = true\n')
        flags = ["--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        self._superlink = self._open("flower-superlink", *flags, "--disable-runtime-dependency-installation")
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if self._superlink.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"Flower's SuperLink did not start; see {self.log}")
            time.sleep(0.1)

    def submit(self, job: Job) -> None:
        """Submit ``job`` and follow its log, which normally ends when the run does."""
        app = write_app(self.folder / "app", job.components, job.extra)
        run_config = flower.write_run_config(self.folder / "run.toml", job.run_config())
        self._unfinished = True
        follow = ["--stream", "--federation-config", _federation(job), "--run-config", run_config]
        self._open("flwr", "run", str(app), CONNECTION, *follow).wait()

    def status(self) -> tuple[str, str]:
        """The run's final status and its details; waits for them, for the log may have broken off before.

        Raises:
            RunError: Flower refused the run, or the SuperLink ended.
        """
        while True:
            run = self._newest()
            self._unfinished = not run["status"].startswith("finished")
            if not self._unfinished:
                return run["status"], run["status-details"]
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop a run that still runs, then end everything that was started."""
        try:
            with contextlib.suppress(RunError, OSError, ValueError):
                self._stop_run()
            if self._superlink is not None:
                self._superlink.terminate()
        finally:  # also when a second Ctrl-C cuts the polite part short
            processes.end(self.token)
            if self._superlink is not None:
                self._superlink.wait()

    def _stop_run(self) -> None:
        """Ask Flower to stop the run: the SuperLink alone would leave Ray's processes without a parent."""
        alive = self._superlink is not None and self._superlink.poll() is None
        if alive and self._unfinished:
            self._ask("stop", self._newest()["run-id"], CONNECTION)

    def _newest(self) -> dict[str, Any]:
        runs = json.loads(self._ask("list", CONNECTION, "--format", "json"))["runs"]
        if not runs:
            raise RunError(f"Flower refused the run; see {self.log}")
        return dict(runs[0])

    def _ask(self, *arguments: str) -> str:
        try:
            return flower.ask(*arguments, surroundings=self._surroundings())
        except RunError as error:
            raise RunError(f"{error}; see {self.log}") from None

    def _open(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [flower.program(program), *arguments], **self._surroundings(), stdout=log, stderr=subprocess.STDOUT
            )

    def _surroundings(self) -> dict[str, Any]:
        # A session of its own: Ctrl-C must reach this process alone, which then ends the others in order.
        shared = {"env": self._environment, "cwd": self.folder / "empty"}
        return {**shared, "stdin": subprocess.DEVNULL, "start_new_session": True}


def _federation(job: Job) -> str:
    settings = {
        "num-supernodes": min(job.sites, NODES),
        "client-resources-num-cpus": job.cpus,
        "client-resources-num-gpus": job.gpus,
    }
    if job.ray_address is None:  # a cluster that is there has the cpus that it has
        settings["init-args-num-cpus"] = min(job.workers, job.sites) * job.cpus
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def require_cluster(address: str, key: str) -> None:
    """``UsageError`` at ``key`` where nothing answers at ``address`` (HOST:PORT); Ray itself would try for ever."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CLUSTER_SECONDS).close()
    except (OSError, ValueError) as error:
        told = "expected HOST:PORT of a Ray cluster's head (`ray start --head` prints it)"
        raise UsageError(f"{key}: {told}, found {address}: {error}") from None


def _result(job: Job) -> Path:
    return job.out / "result.json"


def _stamp(job: Job) -> int:
    """When the result was written; 0 if there is none."""
    return _result(job).stat().st_mtime_ns if _result(job).exists() else 0


def _told(job: Job, before: int) -> FedReconError | None:
    """The ServerApp's own words for the failure of this run, if it left any, with the exit code that it chose."""
    if _stamp(job) == before:
        return None  # no result, or the one of an earlier attempt that is being resumed
    result = json_in(_result(job))
    reason, code = flower.one_line(str(result.get("error") or "")), result.get("exit_code")
    if not reason:
        return None
    return UsageError(reason) if code == UsageError.exit_code else RunError(reason)


def _failure(status: str, details: str) -> str:
    """Flower's words for the failure of a run."""
    words = flower.one_line(details).removeprefix("Simulation failed with exception: ")
    return f"the run failed: {words}" if words else f"Flower reports the run as '{status}'"


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A short-lived folder with a path that is short enough for Ray's sockets."""
    usual = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="fedrecon-", dir=usual if len(usual) <= LONGEST_FOLDER - 18 else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM leave through the ``finally`` blocks, as Ctrl-C does, where this is the main thread and nothing else
    has been made of the signal (the command's ``main`` does)."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: its owner decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

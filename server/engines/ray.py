"""Engine ``ray``: run Flower's simulation on Ray through Flower's own commands.

The engine starts a SuperLink for this one run, with its own port and Flower home, in an empty folder: Ray's workers
import from the working directory before they look into the app bundle, and would import another project's ``client``
package if there was one in it. All processes are marked, so that they can be found and ended (``processes``).
"""

from __future__ import annotations

import contextlib
import json
import os
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

from fedrecon_core.errors import RunError, UsageError
from server.engines import flower, processes
from server.engines.base import ENGINES, Engine, Job
from server.engines.submission import write_app
from server.runs.readers import json_in

CONNECTION = "fedrecon"
START_SECONDS = 60.0
CLUSTER_SECONDS = 10.0
POLL_SECONDS = 2.0
NODES = 64
"""The largest number of nodes of a simulation, in which any node may act for any site. Flower scans all waiting
messages for every node ten times a second: with one node per site, a round would be slower with every site."""
# Ray's socket paths are up to 70 characters longer than that of its folder, and a socket's path has at most 107.
LONGEST_FOLDER = 30


@ENGINES.register("ray")
class Ray(Engine):
    """Runs the sites as Ray actors: ``workers`` at a time or, on the cluster at ``ray_address``, one per CPU.

    The machines of a cluster need the run directory and the data under the same paths, and the same environment.
    """

    def run(self, job: Job) -> None:
        """Execute ``job``; see ``Engine.run``. The output of Flower and Ray is in ``engine.log`` in the run directory.

        All processes are ended, whether the run completes, fails, or is interrupted.
        """
        result = job.out / "result.json"
        before = result.stat().st_mtime_ns if result.exists() else 0
        usual = tempfile.gettempdir()
        parent = usual if len(usual) <= LONGEST_FOLDER - 18 else "/tmp"
        with (
            exit_on_sigterm(),
            tempfile.TemporaryDirectory(prefix="fedrecon-", dir=parent, ignore_cleanup_errors=True) as name,
        ):
            folder = Path(name)
            session = Session(folder, job.out / "engine.log")
            try:
                session.start(job.ray_address)
                session.submit(job)
                status, details = session.status()
            finally:
                session.close()
        if status == "finished:completed":
            return
        written = json_in(result)
        reason = flower.one_line(str(written.get("error") or ""))
        if reason and result.stat().st_mtime_ns != before:  # otherwise it is the result of an earlier attempt
            raise (UsageError if written.get("exit_code") == UsageError.exit_code else RunError)(reason)
        details = flower.one_line(details).removeprefix("Simulation failed with exception: ")
        failure = f"the run failed: {details}" if details else f"Flower reports the run as '{status}'"
        raise RunError(f"{failure}; see {session.log}")


@dataclass
class Session:
    """A SuperLink and Flower's commands for it."""

    folder: Path
    log: Path
    _superlink: subprocess.Popen[bytes] | None = None
    _unfinished: bool = False

    def __post_init__(self) -> None:
        self.token = self.folder.name  # in the working directory of all processes that are started here
        for name in ("home", "empty", "ray", "app"):
            (self.folder / name).mkdir()
        programs = str(Path(sys.executable).parent)
        self._environment = {  # changed by ``start``
            **os.environ,
            **flower.ENVIRONMENT,
            **processes.environment(self.token),
            "FLWR_HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            # Otherwise a configured proxy would be used for the connection to this SuperLink.
            **{name: f"127.0.0.1,localhost,{os.environ.get(name, '')}" for name in ("NO_PROXY", "no_proxy")},
        }
        self._surroundings: dict[str, Any] = {
            "env": self._environment,
            "cwd": self.folder / "empty",
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,  # Ctrl-C must reach only this process, which then ends the others in order
        }

    def start(self, ray_address: str | None) -> None:
        """Start the SuperLink and wait until it listens; ``RunError`` if it does not. The run starts Ray, or connects
        to the cluster at ``ray_address``."""
        if ray_address is not None:
            require_cluster(ray_address, "engine.ray_address")
            self._environment["RAY_ADDRESS"] = ray_address  # Flower has no option for it, and Ray reads it
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        address = f"127.0.0.1:{port}"
        connection = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        (self.folder / "home" / "config.toml").write_text(f'{connection}address = "{address}"\ninsecure = true\n')
        flags = ["--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        self._superlink = self._open("flower-superlink", *flags, "--disable-runtime-dependency-installation")
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self._superlink.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"Flower's SuperLink did not start; see {self.log}")
            time.sleep(0.1)

    def submit(self, job: Job) -> None:
        """Submit ``job`` and write its log to the file, until the log ends. That is normally the end of the run."""
        app = write_app(self.folder / "app", job.components, job.extra)
        run_config = flower.write_run_config(self.folder / "run.toml", job.run_config())
        self._unfinished = True
        follow = ["--stream", "--federation-config", federation_config(job), "--run-config", run_config]
        self._open("flwr", "run", str(app), CONNECTION, *follow).wait()

    def status(self) -> tuple[str, str]:
        """Wait for the run's final status and its details, since the log may end before the run.

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
        """Stop the run if it has not ended, then end all processes that were started."""
        try:
            with contextlib.suppress(RunError, OSError, ValueError):
                alive = self._superlink is not None and self._superlink.poll() is None
                if alive and self._unfinished:  # ending the SuperLink alone would leave Ray's processes running
                    self._ask("stop", self._newest()["run-id"], CONNECTION)
            if self._superlink is not None:
                self._superlink.terminate()
        finally:  # also after a second Ctrl-C
            processes.end(self.token)
            if self._superlink is not None:
                self._superlink.wait()

    def _newest(self) -> dict[str, Any]:
        runs = json.loads(self._ask("list", CONNECTION, "--format", "json"))["runs"]
        if not runs:
            raise RunError(f"Flower refused the run; see {self.log}")
        return dict(runs[0])

    def _ask(self, *arguments: str) -> str:
        try:
            return flower.ask(*arguments, surroundings=self._surroundings)
        except RunError as error:
            raise RunError(f"{error}; see {self.log}") from None

    def _open(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [flower.program(program), *arguments], **self._surroundings, stdout=log, stderr=subprocess.STDOUT
            )


def federation_config(job: Job) -> str:
    """The value of ``flwr run --federation-config``."""
    settings: dict[str, float] = {
        "num-supernodes": min(job.sites, NODES),
        "client-resources-num-cpus": job.cpus,
        "client-resources-num-gpus": job.gpus,
    }
    if job.ray_address is None:  # an existing cluster has its own number of CPUs
        settings["init-args-num-cpus"] = min(job.workers, job.sites) * job.cpus
    return " ".join(f"{key}={value}" for key, value in settings.items())


def require_cluster(address: str, key: str) -> None:
    """Raise ``UsageError`` for ``key`` if nothing listens at ``address`` (HOST:PORT): Ray would try forever."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CLUSTER_SECONDS).close()
    except (OSError, ValueError) as error:
        expected = "expected HOST:PORT of a Ray cluster's head (`ray start --head` prints it)"
        raise UsageError(f"{key}: {expected}, found {address}: {error}") from None


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise ``SystemExit``, so that ``finally`` blocks run as after Ctrl-C. Does nothing if the signal
    already has a handler, as in the command, or outside the main thread."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

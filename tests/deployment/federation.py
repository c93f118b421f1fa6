"""A real federation on loopback: a SuperLink with TLS and authentication, and one SuperNode per site folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.engines import flower, processes
from server.runs.directory import newest_round
from tests.helpers.processes import PATIENCE, free_port, wait_until

PROGRAMS = Path(sys.executable).parent


class Cable:
    """A TCP connection to ``target`` on loopback that can be cut and mended; ``port`` is its near end."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._ends: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        """Let connections through (again)."""
        self._near = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._near,), daemon=True).start()

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        for end in (self._near, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):  # cut
            while True:
                caller, _ = near.accept()
                callee = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [caller, callee]
                for source, sink in ((caller, callee), (callee, caller)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # cut
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@dataclass
class Federation:
    """All files below ``folder``; every process carries a mark by which ``close`` finds it, whoever started it.

    ``address`` is the SuperLink's. ``places``: a prefix for the commands of a site, or of ``superlink`` and the
    submitter, that runs them on a host of its own. ``forked``: the sites that ``fedrecon site`` starts.
    """

    folder: Path
    sites: dict[str, Path]
    address: str = "127.0.0.1"
    places: dict[str, list[str]] = field(default_factory=dict)
    forked: frozenset[str] = frozenset()
    token: str = field(default_factory=lambda: f"federation-{uuid.uuid4().hex[:12]}")
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.keys = self.folder / "keys"
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        named = [option for name in self.sites for option in ("--site", name)]
        self.command("certificates", "--out", str(self.keys), "--host", self.address, "--host", "localhost", *named)
        self.connect("hospitals", self.port)

    def connect(self, name: str, port: int) -> None:
        """Add the connection ``name`` to Flower's config.toml."""
        lines = [
            f"[superlink.{name}]",
            f'address = "{self.address}:{port}"',
            f'root-certificates = "{self.keys}/ca.crt"',
        ]
        with (self.home / "config.toml").open("a") as file:
            file.write("\n".join([*lines, "", ""]))

    # --- processes ------------------------------------------------------------------------------------------------

    def start(self) -> Federation:
        """Start the SuperLink and a SuperNode for every site."""
        self.start_superlink()
        for name in self.sites:
            self.register(name)
            self.start_site(name)
        return self

    def register(self, name: str) -> None:
        """Register the public key of ``name`` at the SuperLink."""
        self._flwr("supernode", "register", str(self.keys / "sites" / f"{name}.pub"), "hospitals")

    def start_superlink(self) -> None:
        flags = ["--ssl-ca-certfile", self.keys / "ca.crt", "--ssl-certfile", self.keys / "server.crt"]
        flags += ["--ssl-keyfile", self.keys / "server.key", "--enable-supernode-auth"]
        flags += ["--database", self.folder / "superlink.db", "--host", self.address, "--port", self.port]
        self._open("superlink", "flower-superlink", *flags, "--disable-runtime-dependency-installation")
        wait_until("the SuperLink listens", self._listens)

    def start_site(self, name: str, authority: Path | None = None) -> None:
        config = {"site": name, "data": str(self.sites[name]), "state": str(self.folder / "state" / name)}
        flags = ["--root-certificates", authority or self.keys / "ca.crt", "--superlink", f"{self.address}:{self.port}"]
        flags += ["--auth-supernode-private-key", self.keys / "sites" / f"{name}.key", "--port", free_port()]
        node = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        program = ["fedrecon", "site"] if name in self.forked else ["flower-supernode"]
        self._open(name, *program, *flags, "--node-config", node)

    def exit_code(self, name: str) -> int | None:
        """The exit code of the SuperLink (``superlink``) or a SuperNode; None while it runs."""
        return self._running[name].poll()

    def nodes(self) -> dict[str, str]:
        """Node id -> status, of all nodes that the SuperLink lists."""
        found = json.loads(self._flwr("supernode", "list", "hospitals", "--format", "json"))
        return {node["node-id"]: node["status"] for node in found["nodes"]}

    def online(self) -> set[str]:
        """The ids of the nodes that are connected."""
        return {node for node, status in self.nodes().items() if status == "online"}

    def kill(self, name: str) -> None:
        """``kill -9`` of the SuperLink (``superlink``) or a SuperNode, and of nothing that it started."""
        self._running[name].kill()
        self._running.pop(name).wait()

    def kill_group(self, name: str) -> None:
        """``kill -9`` of a SuperNode with what it started, as when its machine loses power."""
        os.killpg(self._running[name].pid, signal.SIGKILL)
        self._running.pop(name).wait()

    def server_apps(self) -> list[int]:
        """The processes of ServerApps."""
        return [pid for pid in processes.marked(self.token) if b"flwr-serverapp" in _command_line(pid)]

    def works(self, name: str) -> bool:
        """Whether the site ``name`` has a process for a message at this moment."""
        group = self._running[name].pid
        found = [pid for pid in processes.marked(self.token) if b"flwr-clientapp" in _command_line(pid)]
        return any(_group(pid) == group for pid in found)

    def processes(self) -> dict[str, int]:
        """Name -> process of the SuperLink, the SuperNodes and the one ServerApp."""
        found = {name: process.pid for name, process in self._running.items()}
        return {**found, **dict(zip(["serverapp"], self.server_apps(), strict=False))}

    def close(self) -> None:
        processes.end(self.token)
        for process in self._running.values():
            process.wait()

    # --- commands -------------------------------------------------------------------------------------------------

    def run(self, *arguments: str, superlink: str = "hospitals") -> subprocess.Popen[str]:
        """``fedrecon run ... --engine deployment --superlink NAME`` in the background."""
        options = ["--engine", "deployment", "--superlink", superlink]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        words = [*self.places.get("superlink", []), str(PROGRAMS / "fedrecon"), "run", *arguments, *options]
        return subprocess.Popen(words, **self._surroundings(), **pipes)

    def command(self, *arguments: str) -> str:
        """Output of ``fedrecon ...``, which must succeed."""
        return self._output_of(str(PROGRAMS / "fedrecon"), *arguments)

    def _flwr(self, *arguments: str) -> str:
        return self._output_of(str(PROGRAMS / "flwr"), *arguments)

    def _output_of(self, *words: str) -> str:
        """Output of a command that runs where the SuperLink is."""
        near = [*self.places.get("superlink", []), *words]
        done = subprocess.run(near, **self._surroundings(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def _open(self, name: str, program: str, *arguments: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            words = [*self.places.get(name, []), str(PROGRAMS / program), *map(str, arguments)]
            self._running[name] = subprocess.Popen(
                words, **self._surroundings(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _listens(self) -> bool:
        assert self._running["superlink"].poll() is None, (self.folder / "superlink.log").read_text()[-2000:]
        connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
        words = [*self.places.get("superlink", []), sys.executable, "-c", connect, self.address, str(self.port)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def _surroundings(self) -> dict[str, Any]:
        path = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"
        own = {"FLWR_HOME": str(self.home), "PATH": path, "NO_PROXY": "127.0.0.1,localhost", "COLUMNS": "200"}
        environment = {**os.environ, **flower.ENVIRONMENT, **processes.environment(self.token), **own}
        return {"env": environment, "cwd": self.folder, "stdin": subprocess.DEVNULL}


def in_round(directory: Path, round_: int) -> bool:
    """Whether all rounds before ``round_`` are over. (Their own checkpoints may be removed by then.)"""
    return newest_round(directory / "checkpoints") >= round_ - 1


def output_of(command: subprocess.Popen[str]) -> str:
    """Wait for the end of a command; return what it printed."""
    output, _ = command.communicate(timeout=2 * PATIENCE)
    print(output)
    return output


class LiveOutput:
    """What a command prints, read while it runs."""

    def __init__(self, command: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(command,), daemon=True)
        self._thread.start()

    def _read(self, command: subprocess.Popen[str]) -> None:
        self._lines.extend(iter(command.stdout.readline, ""))

    def text(self) -> str:
        return "".join(self._lines)

    def wait_for(self, words: str) -> None:
        wait_until(f"the command prints {words!r}", lambda: words in self.text())

    def to_the_end(self) -> str:
        """All of it, once the command has ended."""
        self._thread.join(2 * PATIENCE)
        return self.text()


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

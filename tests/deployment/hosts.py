"""Several hosts on one machine: network namespaces on a switch, each with its own address. Needs root and ``ip``."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field

NETWORK = "10.77.0"


def reason_against() -> str | None:
    """Why no network namespace can be made here, or None."""
    if shutil.which("ip") is None:
        return "no `ip` (iproute2) on this machine"
    name = f"fedrecon-{uuid.uuid4().hex[:6]}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces are not allowed: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@dataclass
class Hosts:
    """``names`` in the order of their addresses; one more namespace is the switch between them."""

    names: list[str]
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:6])

    def __enter__(self) -> Hosts:
        _ip("netns", "add", self._space("switch"))
        self._in("switch", "link", "add", "bridge", "type", "bridge")
        self._in("switch", "link", "set", "bridge", "up")
        for name in self.names:
            self._attach(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("switch", *self.names):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._space(name))

    def _attach(self, name: str) -> None:
        space, port = self._space(name), self._port(name)
        _ip("netns", "add", space)
        self._in("switch", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._in("switch", "link", "set", port, "master", "bridge", "up")
        self._in(name, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._in(name, "link", "set", device, "up")

    def address(self, name: str) -> str:
        """The address of the host ``name``."""
        return f"{NETWORK}.{1 + self.names.index(name)}"

    def prefix(self, name: str) -> list[str]:
        """What to put before a command to run it on the host ``name``."""
        return ["ip", "netns", "exec", self._space(name)]

    def unplug(self, name: str) -> None:
        """Cut the host ``name`` off: nothing gets through, nobody is told."""
        self._in("switch", "link", "set", self._port(name), "down")

    def plug_in(self, name: str) -> None:
        """Let the host ``name`` back."""
        self._in("switch", "link", "set", self._port(name), "up")

    def _port(self, name: str) -> str:
        return f"port{self.names.index(name)}"

    def _space(self, name: str) -> str:
        return f"fedrecon-{self.token}-{name}"

    def _in(self, name: str, *arguments: str) -> None:
        _ip("-n", self._space(name), *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)

"""Three sites on separate hosts (network namespaces on a switch, which need root and ``ip``): one is cut off in
mid-round without a closed connection, and comes back."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedrecon_core.preparation.simulated_sites import write_sites
from server.runs.setup import load_config
from tests.deployment.federation import Federation, output_of
from tests.helpers import runs
from tests.helpers.processes import wait_until

pytestmark = [pytest.mark.deployment, pytest.mark.faults, pytest.mark.slow]

NETWORK = "10.77.0"


def reason_against() -> str | None:
    """The reason why network namespaces cannot be created here; None if they can."""
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
        """Cut the host ``name`` off without closing its connections."""
        self._in("switch", "link", "set", self._port(name), "down")

    def plug_in(self, name: str) -> None:
        """Connect the host ``name`` again."""
        self._in("switch", "link", "set", self._port(name), "up")

    def _port(self, name: str) -> str:
        return f"port{self.names.index(name)}"

    def _space(self, name: str) -> str:
        return f"fedrecon-{self.token}-{name}"

    def _in(self, name: str, *arguments: str) -> None:
        _ip("-n", self._space(name), *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


SITES = ["site-0000", "site-0001", "site-0002"]
CONFIG = {
    "name": "hosts",
    "rounds": 5,
    "data": {"name": "polydigits", "modalities": 2, "tuples": 1},
    "sites": {"count": 3, "timeout": 600, "wait": 600},
    "task": {"width": 8, "hidden": 8},
    "recovery": "mask",
    "evaluate": {"every": 5},
}


@pytest.fixture
def hosts():
    if (reason := reason_against()) is not None:
        pytest.skip(reason)
    with Hosts(["server", *SITES]) as found:
        yield found


def test_a_host_is_cut_off_in_mid_round_and_comes_back(hosts, tmp_path: Path):
    folders = list(write_sites(load_config(runs.write(tmp_path, CONFIG)), tmp_path / "sites"))
    federation = Federation(
        tmp_path / "net",
        {folder.name: folder for folder in folders},
        address=hosts.address("server"),
        places={name: hosts.prefix(name) for name in SITES} | {"superlink": hosts.prefix("server")},
    )
    done = tmp_path / "run" / "checkpoints"
    try:
        federation.start()
        settings = ["--set", "sites.min=2", "--out", str(tmp_path / "run")]
        command = federation.run(str(tmp_path / "sites" / "federation.yaml"), *settings)
        wait_until("round 1", (done / "round-000001").is_dir, command)
        wait_until("the site has a message of round 2", lambda: federation.works("site-0001"), command)
        hosts.unplug("site-0001")
        cut = time.monotonic()
        wait_until("the round in which a site was cut off", (done / "round-000002").is_dir, command)
        waited = time.monotonic() - cut
        hosts.plug_in("site-0001")
        output = output_of(command)
    finally:
        federation.close()
    print(f"the round with the cut took {waited:.0f} s")
    assert command.returncode == 0
    lines = runs.lines(tmp_path / "run", "sites.jsonl")
    status = {line["round"]: line["status"] for line in lines if line["site"] == "site-0001"}
    assert status[1] == "ok"
    assert "failed" in status.values()
    assert status[max(status)] == "ok", "it did not come back"
    assert all(line["status"] == "ok" for line in lines if line["site"] != "site-0001")
    assert "2 of 3 sites answered; site-0001: " in output

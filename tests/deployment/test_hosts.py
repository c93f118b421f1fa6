"""Three sites on hosts of their own; one is cut off in mid-round without a closed connection, and comes back."""

import time
from pathlib import Path

import pytest

from fedrecon_core.preparation.simulated_sites import write_sites
from server.runs.setup import load_config
from tests.deployment.federation import Federation, output_of
from tests.deployment.hosts import Hosts, reason_against
from tests.helpers import runs
from tests.helpers.processes import wait_until

pytestmark = [pytest.mark.deployment, pytest.mark.faults, pytest.mark.slow]

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

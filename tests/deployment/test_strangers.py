"""A SuperNode that does not belong to a federation is refused, with the reason in its log."""

import time

import pytest

from tests.deployment.federation import Federation
from tests.helpers.processes import wait_until

pytestmark = [pytest.mark.deployment, pytest.mark.security]


def log_of_refused(federation: Federation, name: str) -> str:
    """What the SuperNode ``name`` wrote until it gave up."""
    began = time.monotonic()
    wait_until(f"{name} gives up", lambda: federation.exit_code(name) is not None)
    log = (federation.folder / f"{name}.log").read_text()
    print(f"\n{name} gave up after {time.monotonic() - began:.1f} s with code {federation.exit_code(name)}:\n{log}")
    assert federation.exit_code(name) != 0
    return log


def test_a_certificate_of_another_authority_is_refused(federation, tmp_path):
    """A site with the wrong ``ca.crt``, or that reached the wrong machine: it does not speak to it."""
    foreign = tmp_path / "keys"
    federation.command("certificates", "--out", str(foreign), "--host", "127.0.0.1", "--site", "other")
    federation.register("other")
    before = federation.online()
    federation.start_site("other", authority=foreign / "ca.crt")
    assert "CERTIFICATE_VERIFY_FAILED" in log_of_refused(federation, "other")
    assert federation.online() <= before


def test_a_key_is_refused_until_it_is_registered(federation):
    before = set(federation.nodes())
    federation.start_site("stranger")
    assert "Failed to activate SuperNode" in log_of_refused(federation, "stranger")
    assert federation.online() <= before
    federation.register("stranger")
    [registered] = set(federation.nodes()) - before
    assert registered not in federation.online()
    federation.start_site("stranger")
    wait_until("the registered one is let in", lambda: registered in federation.online())
    federation.kill_group("stranger")

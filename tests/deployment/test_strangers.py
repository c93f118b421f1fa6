"""Who does not belong to a federation does not get in, and is told so."""

import time

import pytest

from tests.deployment.federation import Federation, wait_until

pytestmark = [pytest.mark.deployment, pytest.mark.faults]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    base = tmp_path_factory.mktemp("net")
    found = Federation(base / "ours", {"stranger": base, "other": base})
    try:
        found.start_superlink()
        yield found
    finally:
        found.close()


def ended(federation: Federation, name: str) -> str:
    """What the SuperNode ``name`` said until it gave up."""
    began = time.monotonic()
    wait_until(f"{name} gives up", lambda: federation.exit_code(name) is not None, 90)
    said = (federation.folder / f"{name}.log").read_text()
    print(f"\n{name} gave up after {time.monotonic() - began:.1f} s with code {federation.exit_code(name)}:\n{said}")
    assert federation.exit_code(name) != 0
    return said


def test_a_key_that_is_not_registered_gets_in_once_it_is(federation):
    federation.start_site("stranger")
    assert "Failed to activate SuperNode" in ended(federation, "stranger")
    assert federation.online() == []
    federation.register("stranger")
    federation.start_site("stranger")
    wait_until("the registered one is let in", lambda: len(federation.online()) == 1, 60)
    federation.kill_group("stranger")


def test_a_certificate_of_another_authority(federation, tmp_path):
    """A site that was given the wrong ``ca.crt``, or reached the wrong machine: it does not speak to that."""
    foreign = tmp_path / "keys"
    federation.command("certificates", "--out", str(foreign), "--host", "127.0.0.1", "--site", "other")
    federation.register("other")
    federation.start_site("other", authority=foreign / "ca.crt")
    before = federation.online()  # it takes a minute until the SuperLink misses a node
    assert "CERTIFICATE_VERIFY_FAILED" in ended(federation, "other")
    assert set(federation.online()) <= set(before)

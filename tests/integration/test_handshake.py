"""Whom a simulation asks before round 1, and what becomes of sites that cannot tell who they are."""

from pathlib import Path
from typing import Any

import pytest

import client.app
import server.handshake
from fedrecon_core.errors import RunError
from server.handshake import ASKED
from strategies.messages import SiteInfo
from tests.toys.runs import lines, outcome, run, settings

SITES = ASKED + 4
DUMB = "site-0003"


@pytest.fixture
def raw() -> dict[str, Any]:
    """More sites than are asked, each with a few samples; z-normalised, so that the sums matter."""
    data = {"name": "toy", "scale": "standard", "train": 4 * SITES}
    return settings(data=data, sites={"count": SITES}, rounds=1, recovery={"name": "mask"})


def recorded(monkeypatch: pytest.MonkeyPatch, module: Any) -> dict[str, SiteInfo]:
    """What ``module`` says of sites, by name."""
    original, said = module.description, dict[str, SiteInfo]()

    def description(name: str, *arguments: Any) -> SiteInfo:
        said[name] = original(name, *arguments)
        return said[name]

    monkeypatch.setattr(module, "description", description)
    return said


def dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the asked sites fails at saying who it is."""
    original = client.app.description

    def description(name: str, *arguments: Any) -> SiteInfo:
        if name == DUMB:
            raise ValueError("no word")
        return original(name, *arguments)

    monkeypatch.setattr(client.app, "description", description)


def test_some_are_asked_and_say_to_the_last_bit_what_the_server_says_of_all(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, ours = recorded(monkeypatch, client.app), recorded(monkeypatch, server.handshake)
    run(tmp_path, raw)
    assert sorted(sites) == [f"site-{number:04d}" for number in range(ASKED)]
    assert len(ours) == SITES
    assert {name: ours[name] for name in sites} == sites
    assert any(info.sums for info in sites.values())


def test_how_many_are_asked_changes_no_result(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = outcome(run(tmp_path / "few", raw))
    monkeypatch.setattr(server.handshake, "ASKED", SITES)
    every = outcome(run(tmp_path / "every", raw))
    assert every["result"].pop("wire_bytes") > few["result"].pop("wire_bytes")
    assert every == few


def test_a_site_that_cannot_tell_ends_the_run_unless_fewer_are_enough(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumb(monkeypatch)
    told = (
        rf"{ASKED - 1} of the {ASKED} sites that were asked .* at least {ASKED} must \(sites.min\). {DUMB}: .*no word"
    )
    with pytest.raises(RunError, match=told):
        run(tmp_path / "all", raw)
    out = run(tmp_path / "enough", {**raw, "sites": {"count": SITES, "min": ASKED - 1}})
    assert [line["site"] for line in lines(out, "sites.jsonl")] == sorted(
        f"site-{number:04d}" for number in range(SITES) if number != 3
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"code_hash": "0ld"}, "runs other code: expected code hash [0-9a-f]{64}, found 0ld"),
        ({"spec_hash": "0ld"}, "has another data set: expected spec hash [0-9a-f]{64}, found 0ld"),
        ({"samples": 9}, "holds other samples: expected the number 4, found 9"),
        ({"modalities": ("steps",)}, r"holds other samples: expected the modalities \(.*\), found \('steps',\)"),
    ],
)
def test_a_site_that_says_something_else_than_the_server_ends_the_run(
    change: dict[str, Any], told: str, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = client.app.description

    def description(*arguments: Any) -> SiteInfo:
        return SiteInfo(**{**vars(original(*arguments)), **change})

    monkeypatch.setattr(client.app, "description", description)
    with pytest.raises(RunError, match=f"site site-0000 {told}"):
        run(tmp_path, {**raw, "missing": {}})

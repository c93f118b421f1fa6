"""Whom a simulation asks before round 1, and what becomes of sites that cannot tell who they are."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import client.simulated
import server.federation.registration
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.data.statistics import Sums
from fedrecon_core.errors import RunError
from server.federation.registration import ASKED
from server.training.rounds import Rounds
from strategies.messages import SiteInfo
from tests.helpers.runs import forget, lines, outcome, resume, run, settings

SITES = ASKED + 4
DUMB = "site-0003"


@pytest.fixture
def raw() -> dict[str, Any]:
    """More sites than are asked, each with a few samples; z-normalised, so that the sums matter."""
    data = {"name": "toy", "scale": "standard", "train": 4 * SITES}
    return settings(data=data, sites={"count": SITES}, rounds=1, recovery={"name": "mask"})


def summed_here(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Sums]]:
    """The sums that the server makes, site after site."""
    original, made = server.federation.registration.site_sums, list[dict[str, Sums]]()

    def site_sums(data: SiteData) -> dict[str, Sums]:
        made.append(original(data))
        return made[-1]

    monkeypatch.setattr(server.federation.registration, "site_sums", site_sums)
    return made


def said_there(monkeypatch: pytest.MonkeyPatch) -> dict[str, SiteInfo]:
    """What sites say of themselves, by name."""
    original, said = SiteInfo.of, dict[str, SiteInfo]()

    def description(name: str, *arguments: Any) -> SiteInfo:
        said[name] = original(name, *arguments)
        return said[name]

    monkeypatch.setattr(SiteInfo, "of", staticmethod(description))
    return said


def dumb(monkeypatch: pytest.MonkeyPatch, names: Collection[str] = (DUMB,)) -> None:
    """Some of the asked sites fail at saying who they are."""
    original = SiteInfo.of

    def description(name: str, *arguments: Any) -> SiteInfo:
        if name in names:
            raise ValueError("no word")
        return original(name, *arguments)

    monkeypatch.setattr(SiteInfo, "of", staticmethod(description))


def test_some_are_asked_and_say_to_the_last_bit_what_the_server_sums_up_itself(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, ours = said_there(monkeypatch), summed_here(monkeypatch)
    run(tmp_path, raw)
    assert sorted(said) == [f"site-{number:04d}" for number in range(ASKED)]
    assert len(ours) == SITES
    assert ours[:ASKED] == [said[name].sums for name in sorted(said)]
    assert any(ours)


def test_a_resumed_run_sums_up_the_asked_sites_alone_and_keeps_its_statistics(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(run(tmp_path / "whole", {**raw, "rounds": 2}))
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "_validate", stopped_after(1))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", {**raw, "rounds": 2})
    ours = summed_here(monkeypatch)
    ended = outcome(resume(tmp_path / "cut" / "run"))
    assert len(ours) == ASKED
    assert ended["result"].pop("wire_bytes") > whole["result"].pop("wire_bytes")  # hands were shaken twice
    assert ended == whole


def stopped_after(round_: int) -> Any:
    """A validation that is interrupted in the round behind ``round_``."""
    original = Rounds._validate

    def validate(self: Rounds, current: int) -> Any:
        if current > round_:
            raise KeyboardInterrupt
        return original(self, current)

    return validate


def test_how_many_are_asked_changes_no_result(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = outcome(run(tmp_path / "few", raw))
    monkeypatch.setattr(server.federation.registration, "ASKED", SITES)
    every = outcome(run(tmp_path / "every", raw))
    assert every["result"].pop("wire_bytes") > few["result"].pop("wire_bytes")
    assert every == few


@pytest.mark.parametrize(("least", "failing", "spare"), [(None, 1, 0), (SITES - 1, 2, 1), (1, ASKED, ASKED - 1)])
def test_more_sites_that_cannot_tell_than_may_be_missing_end_the_run(
    least: int | None, failing: int, spare: int, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumb(monkeypatch, [f"site-{number:04d}" for number in range(failing)])
    with pytest.raises(RunError) as error:
        run(tmp_path, {**raw, "sites": {"count": SITES, "min": least}})
    answered = f"{ASKED - failing} of the {ASKED} sites that were asked gave a description"
    told = (
        f"of all {SITES} at least {least or SITES} must be connected (sites.min), so that at most {spare} may fail here"
    )
    assert str(error.value).startswith(f"{answered}; {told}. site-0000") and str(error.value).endswith("no word")


@pytest.mark.parametrize(("least", "failing"), [(SITES - 1, 1), (1, ASKED - 1)])
def test_sites_that_cannot_tell_stay_in_the_run_and_change_nothing(
    least: int, failing: int, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Whether a site is among those that are asked, or fails just then, is no reason for another result."""
    raw = {**raw, "sites": {"count": SITES, "min": least}}
    whole = outcome(run(tmp_path / "whole", raw))
    capsys.readouterr()
    dumb(monkeypatch, [f"site-{number:04d}" for number in range(failing)])
    found = outcome(run(tmp_path / "dumb", raw))
    assert found["result"].pop("wire_bytes") < whole["result"].pop("wire_bytes")
    assert found == whole
    assert f"round 0: {ASKED - failing} of {ASKED} sites answered" in capsys.readouterr().out


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
    original = SiteInfo.of

    def description(*arguments: Any) -> SiteInfo:
        return SiteInfo(**{**vars(original(*arguments)), **change})

    monkeypatch.setattr(SiteInfo, "of", staticmethod(description))
    with pytest.raises(RunError, match=f"site site-0000 {told}"):
        run(tmp_path, {**raw, "missing": {}})


def other_values(dataset: Dataset, name: str) -> Dataset:
    """``dataset`` with a copy of its last training sample's ``name`` in place of its first one's."""
    array = dataset.arrays[name].copy()
    array[0] = array[dataset.members(0)[-1]]
    return replace(dataset, arrays={**dataset.arrays, name: array})


@pytest.mark.parametrize(("name", "resumed"), [("picture", False), ("features", False), ("features", True)])
def test_sites_with_other_values_under_the_same_specification_end_the_run(
    name: str, resumed: bool, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine of a cluster whose ``data.root`` holds other files."""
    raw = {**raw, "missing": {}, "rounds": 2}
    if resumed:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Rounds, "_validate", stopped_after(1))
            run(tmp_path, raw)
    forget()
    original = client.simulated.load_dataset
    monkeypatch.setattr(client.simulated, "load_dataset", lambda config: other_values(original(config), name))
    told = rf"site site-\d{{4}} has other values of {name} than it was assigned: expected the same data on every"
    with pytest.raises(RunError, match=told):
        resume(tmp_path / "run") if resumed else run(tmp_path, raw)
    assert len(lines(tmp_path / "run", "metrics.jsonl")) if resumed else not (tmp_path / "run/metrics.jsonl").exists()
    forget()

"""The report of a run with very many sites: those that took part have rows, the page stays small."""

import json
from pathlib import Path

import pytest

from server.report.run.report import write_report
from server.report.run.sections import MOST_ROWS

pytestmark = pytest.mark.quick

SITES, ASKED = 1000, range(900, 950)


def name(site: int) -> str:
    return f"site-{site:04d}"


def line(site: int) -> str:
    seconds = {"task_seconds": 1.0, "total_seconds": 1.5}
    numbers = {"round": 1, "samples": 4, "bytes_down": 100, "bytes_up": 50, **seconds}
    return json.dumps({"site": name(site), "status": "ok", **numbers}) + "\n"


def page(directory: Path, sites: int) -> str:
    described = [{"name": name(s), "samples": 4, "modalities": {"m": 1.0}, "classes": [2, 2]} for s in range(sites)]
    manifest = {"modalities": ["m"], "classes": ["a", "b"], "full_bytes": 100, "sites": described}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "sites.jsonl").write_text("".join(line(s) for s in ASKED if s < sites))
    return write_report(directory).read_text()


def test_sites_that_took_part_come_before_others_and_the_rest_is_told(tmp_path: Path) -> None:
    found = page(tmp_path, SITES)
    assert all(name(site) in found for site in (*ASKED, 0, MOST_ROWS - len(ASKED) - 1))
    assert name(MOST_ROWS - len(ASKED)) not in found
    assert name(SITES - 1) not in found
    assert found.count(f"{MOST_ROWS} of 1,000 sites") == 5  # participation, modalities, classes, traffic, time


def test_up_to_the_limit_every_site_has_its_row(tmp_path: Path) -> None:
    found = page(tmp_path, MOST_ROWS)
    assert all(name(site) in found for site in range(MOST_ROWS))
    assert " sites, those that took part first" not in found


def test_the_whole_is_summed_over_all_sites_that_reported(tmp_path: Path) -> None:
    assert "5.0 kB" in page(tmp_path, SITES)  # 50 downloads of 100 bytes

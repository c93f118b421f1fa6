"""The frame of the reports: sorting keys, the policy that allows the one script, and that the bundle has all files."""

import base64
import hashlib
import io
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from server.engines.submission import write_app
from server.report.order import sort_key
from server.report.page import FOLDER, environment
from server.report.run.report import write_report
from server.runs.formatting import DASH, count, decimal, percent, seconds, size
from server.runs.record import read_run
from server.runs.summary import traffic
from tests.helpers.pages import Page
from tests.helpers.reported_run import write_run

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (percent(0.6214), 0.621),
        (size(512), 512),
        (size(41_230_000), 41_200_000),
        (size(5_000_000_000_000), 5e12),
        (seconds(0.42), 0.42),
        (seconds(125), 125),
        (seconds(11_520), 11_520),
        (count(1_234_567), 1_234_567),
        (decimal(999.7), 1_000),
        ("-0.4 to 1.2", -0.4),
        ("85.0 ± 1.9 (n = 3) [86.2]", 85.0),
        ("12 of 40", 12),
    ],
)
def test_what_is_written_for_people_is_sorted_as_a_number(text: str, value: float) -> None:
    key = sort_key(text)
    assert key is not None and float(key) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", DASH, "mask", "site-0003", "3", "-0.5", "+4.6", "1e-3", "3x", "5th", "1-2"])
def test_words_and_plain_numbers_speak_for_themselves(text: str) -> None:
    assert sort_key(text) is None


def test_longer_is_more_in_whatever_unit_it_is_written() -> None:
    durations = [0.05, 0.9, 31.5, 59.9, 61.0, 3_599.0, 7_322.0, 100_000.0]
    keys = [float(sort_key(seconds(value)) or "nan") for value in durations]
    assert keys == sorted(set(keys))
    bytes_ = [3, 999, 1_500, 999_000, 2_000_000, 3e9, 4e12, 5e15]
    keys = [float(sort_key(size(value)) or "nan") for value in bytes_]
    assert keys == sorted(set(keys))


def test_cells_carry_raw_values_to_sort_by_and_sums_stay_last(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    text = write_report(directory).read_text()
    sent = traffic(read_run(directory), "down").sent
    assert f'<td data-sort="{sent}">{size(sent)}</td>' in text
    time = Page(text[text.index('<section id="time"') : text.index('<section id="details"')])
    assert [tag for tag, _ in time.elements if tag in ("thead", "tbody", "tfoot")] == ["thead", "tbody", "tfoot"]
    assert not Page(text).all("button")  # the script creates them: without it they would do nothing


def test_the_policy_allows_the_one_script_by_its_bytes(tmp_path: Path) -> None:
    raw = write_report(write_run(tmp_path / "run")).read_bytes()
    (written,) = re.findall(rb"<script>(.*?)</script>", raw, re.DOTALL)
    assert written.decode() == environment().globals["script"]
    digest = base64.b64encode(hashlib.sha256(written).digest()).decode()
    policies = [meta["content"] for meta in Page(raw.decode()).all("meta") if "http-equiv" in meta]
    assert policies == [f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"]


def bundled(app: Path) -> set[str]:
    """Names of the files of ``server/report`` in the bundle that Flower builds from an app folder."""
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as bundle:
        return {name for name in bundle.namelist() if name.startswith("server/report/")}


def test_flowers_bundle_has_every_file_of_the_reports(tmp_path: Path) -> None:
    root = FOLDER.parent.parent
    files = {
        path.relative_to(root).as_posix() for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert sum(name.endswith(".md") for name in files) >= 6
    app = write_app(tmp_path / "app", ("server.app:app", "client.app:app"))
    assert bundled(app) == files  # what `fedrecon run` submits
    checkout = tmp_path / "checkout"  # what `flwr run .` bundles; each pattern of fab-include needs a file
    shutil.copytree(app, checkout)
    shutil.copyfile(root / "pyproject.toml", checkout / "pyproject.toml")
    assert bundled(checkout) == files

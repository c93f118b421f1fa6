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
from server.report.page import FOLDER, environment
from server.report.run.report import write_report
from server.runs.formatting import size
from server.runs.record import read_run
from server.runs.summary import traffic
from tests.helpers.pages import Page
from tests.helpers.reported_run import write_run

pytestmark = pytest.mark.quick


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

"""The frame of the reports: sorting keys, the policy that allows the one script, and that the bundle has all files."""

import base64
import hashlib
import io
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from flwr.cli.build import build_fab_from_disk

from fedrecon_core.errors import RunError
from server.engines.submission import write_app
from server.report.charts import nice_ticks, round_ticks
from server.report.page import FOLDER, environment, write_page
from server.report.run import write_report
from server.runs.formatting import size
from server.runs.record import read_run
from server.runs.summary import traffic
from server.training.reconstruction_images import save_grid
from tests.helpers.processes import files_end_at
from tests.helpers.reports import Page, write_run
from tests.helpers.runs import caller

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


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_reports_can_be_written_at_the_same_time(tmp_path: Path) -> None:
    texts = [letter * 200_000 for letter in "ab"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: write_page(tmp_path, text), texts * 20))
    assert (tmp_path / "report.html").read_text() in texts
    assert names_in(tmp_path) == {"report.html"}


def test_a_report_that_cannot_be_written_is_one_line_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names_in(write_run(tmp_path)) | {"report.html"}
    (tmp_path / "report.html").mkdir()
    code, out, err = caller(monkeypatch, capsys)("report", tmp_path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"fedrecon: cannot write {tmp_path / 'report.html'}: Is a directory; make room, or mend the rights" in err
    assert names_in(tmp_path) == before


def test_a_full_disk_leaves_the_old_report_and_the_old_picture(tmp_path: Path) -> None:
    images, paths = np.zeros((1, 1, 3, 8, 8)), [tmp_path / "report.html", tmp_path / "grid.png"]
    write_page(tmp_path, "before")
    save_grid(paths[1], ["one"], ["a"], images)
    before = [path.read_bytes() for path in paths]
    with files_end_at(100), pytest.raises(RunError, match=r"cannot write .*report\.html: File too large; make room"):
        write_page(tmp_path, "after" * 100)
    with files_end_at(100), pytest.raises(RunError, match=r"cannot write .*grid\.png: File too large; make room"):
        save_grid(paths[1], ["one"], ["a"], images + 1)
    assert [path.read_bytes() for path in paths] == before
    assert names_in(tmp_path) == {"report.html", "grid.png"}


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [0.1, 0.72], [-5.0, 12_345.0], [1e-9, 2e-9], [210.0, 850.0]])
def test_ticks_enclose_the_values(values: list[float]) -> None:
    ticks = nice_ticks(values)
    assert ticks[0] <= min(values) + 1e-12 and ticks[-1] >= max(values) - 1e-12
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("last", "expected"), [(1, [1]), (3, [1, 2, 3]), (12, [1, 4, 6, 8, 10, 12])])
def test_round_ticks_are_whole_and_end_at_the_last(last: int, expected: list[int]) -> None:
    assert round_ticks(1, last) == expected

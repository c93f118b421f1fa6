"""The report of a run, its picture grid, the table in the terminal, and the frame that both reports share."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from flwr.cli.build import build_fab_from_disk
from PIL import Image
from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError
from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.registry import METRICS
from server.engines.submission import write_app
from server.report.charts import nice_ticks, round_ticks
from server.report.page import FOLDER, environment, write_page
from server.report.run import MAX_ROWS, SECTIONS, final_table, write_report
from server.runs.directory import RunDirectory
from server.runs.formatting import size
from server.runs.record import FILES, PICTURE, read_run
from server.runs.summary import participation, points, traffic
from server.training.reconstruction_images import save_grid
from tests.helpers.processes import files_end_at
from tests.helpers.reports import FAILED, SITES, Page, site_line, write_run
from tests.helpers.runs import caller


def report(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return report(run)


def test_every_section_has_content_and_a_link(page: Page) -> None:
    anchors = [section["id"] for section in page.all("section")]
    assert anchors == [section.anchor for section in SECTIONS]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} == {f"#{anchor}" for anchor in [*anchors, "content"]}
    assert not [section.empty for section in SECTIONS if section.empty and section.empty in page.words]


def test_nothing_is_fetched(run: Path, page: Page) -> None:
    assert "http:" not in (text := (run / "report.html").read_text()) and "https:" not in text
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert page.all("script") == [{}]
    sources = [value or "" for _, attributes in page.elements for key, value in attributes.items() if key == "src"]
    assert len(sources) == 1 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text and "@import" not in text


def test_the_page_describes_the_run(page: Page) -> None:
    for words in (
        "quickstart",
        "completed",
        "67.4%",
        "8 sites",
        "fedrecon",
        "fedavg",
        "best: round 9",
        "site 0.5",
        "34%",
    ):
        assert words in page.words
    assert len(page.all("polyline")) == 7  # three scores, two losses of the task, generators, mappings


def test_known_faults_of_the_protocol_are_shown(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    known = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**known, "protocol_faults": ["windows overlap."]}))
    assert "Known fault of the protocol: windows overlap." in report(directory).words
    assert "Known fault" not in report(write_run(tmp_path / "other")).words


def test_failed_replies_are_listed_with_their_reasons(page: Page) -> None:
    assert "2 replies of 92 in 12 rounds failed, from site-0003 and site-0006" in page.words
    for reason in FAILED.values():
        assert reason in page.words


def test_tables_and_charts_can_be_read_by_a_screen_reader(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert all(
        "role" in svg or "aria-hidden" in svg
        for svg in page.all("svg")
        if svg.get("class") in ("chart", "bar", "strip")
    )
    boxes = [box for box in page.all("div") if box.get("class") == "scroll"]
    assert boxes and all(box["tabindex"] == "0" for box in boxes)
    assert all(image["alt"] for image in page.all("img"))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = '<b>x</b>"><script>alert(1)</script>'
    names = [evil, "a & b", *(f"site-{k}" for k in range(2, SITES))]
    page = report(write_run(tmp_path / "run", names, name="</title><script>1</script>"))
    assert page.all("script") == [{}]
    assert evil in page.words
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_the_report_is_the_same_twice(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


def test_a_folder_that_is_no_run_directory_is_an_error(tmp_path: Path) -> None:
    for directory, found in ((tmp_path / "none", "found nothing"), (tmp_path, "found none of them")):
        with pytest.raises(FedReconError, match=found) as caught:
            write_report(directory)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("absent", FILES)
def test_a_missing_file_is_named(tmp_path: Path, absent: str) -> None:
    (write_run(tmp_path) / absent).unlink()
    page = report(tmp_path)
    assert f"{absent} is missing" in page.words
    assert len(page.all("section")) == len(SECTIONS)
    Console(width=120, quiet=True).print(final_table(read_run(tmp_path)))


@pytest.mark.parametrize("only", FILES)
def test_one_file_is_enough(tmp_path: Path, only: str) -> None:
    for path in write_run(tmp_path).iterdir():
        if path.name != only:
            path.unlink()
    assert len(report(tmp_path).all("section")) == len(SECTIONS)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"round": [1]', "\x00\ud7ff", "a: 2020-99-99", "[" * 100_000]
)
def test_damaged_files_still_give_a_report(tmp_path: Path, text: str) -> None:
    for name in FILES:
        (write_run(tmp_path) / name).write_text(text, encoding="utf-8")
        assert len(report(tmp_path).all("section")) == len(SECTIONS)


@pytest.mark.parametrize("name", [*FILES, PICTURE])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    directory, read = write_run(tmp_path / "run"), Path.read_bytes
    (directory / PICTURE).write_bytes(b"\x89PNG")

    def refused(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert f"{name} cannot be read: Permission denied." in report(directory).words


def test_values_of_the_wrong_type_still_give_a_report(tmp_path: Path) -> None:
    odd = {"round": "x", "site": 3, "split": [], "groups_down": 5, "loss": "low", "status": None, "bytes_down": "many"}
    wrong = {
        "sites": [3, {"name": 4, "modalities": [], "classes": {"a": 1}}],
        "parameters": [1],
        "effective_missing": 7,
    }
    write_run(tmp_path)
    for name, value in (("metrics.jsonl", odd), ("sites.jsonl", odd), ("manifest.json", wrong), ("result.json", odd)):
        (tmp_path / name).write_text(json.dumps(value))
    assert len(report(tmp_path).all("section")) == len(SECTIONS)


def test_a_failed_run_shows_its_error_and_its_results(tmp_path: Path) -> None:
    write_run(tmp_path)
    failure = "round 5: 3 of 8 sites replied, quorum 0.5 needs 4\nTraceback: <lost>"
    (tmp_path / "result.json").write_text(json.dumps({"status": "failed", "rounds": 4, "error": failure}))
    lines = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if json.loads(line)["round"] < 5]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"round": 5, "spl')
    page = report(tmp_path)
    assert "The run failed after 4 rounds:" in page.words and "quorum 0.5 needs 4" in page.words
    assert "metrics.jsonl: 1 of 9 lines cannot be read" in page.words
    assert len(page.all("polyline")) == 7


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_loss_is_reported_and_not_drawn(tmp_path: Path, loss: float) -> None:
    write_run(tmp_path)
    for turn in (13, 14):
        line = {"round": turn, "split": "train", "loss": loss, "loss_generator": 0.5}
        RunDirectory(tmp_path).append("metrics.jsonl", [line])  # writes what no number is as null
    page, record = report(tmp_path), read_run(tmp_path)
    assert "train loss is no finite number from round 13 on" in page.words
    assert page.words.count("is no finite number") == 1
    assert not {13, 14} & dict(points(record, "train", "loss")).keys()
    assert dict(points(record, "train", "loss_generator"))[14] == 0.5


def test_many_rounds_and_sites_stay_small(tmp_path: Path) -> None:
    write_run(tmp_path)
    lines = [site_line(turn, k % SITES, f"site-{k:04d}") for turn in range(1, 301) for k in range(60)]
    (tmp_path / "sites.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert write_report(tmp_path).stat().st_size < 1_000_000


def test_the_saving_compares_with_sending_everything(run: Path) -> None:
    record = read_run(run)
    full, sent = record.manifest["full_bytes"], sum(line["bytes_down"] for line in record.sites)
    down, up = traffic(record, "down"), traffic(record, "up")
    assert (down.sent, down.everything, down.site_rounds) == (sent, 92 * full, 92)
    assert down.saving == pytest.approx(1 - sent / (92 * full))
    assert (up.site_rounds, up.everything) == (90, 90 * full)  # two sites failed: that is no saving


def test_a_repeated_round_counts_its_last_report(tmp_path: Path) -> None:
    write_run(tmp_path)
    with (tmp_path / "sites.jsonl").open("a") as file:
        file.write(json.dumps({**site_line(5, 2, "site-0003"), "status": "ok"}) + "\n")
    assert participation(read_run(tmp_path))["site-0003"][5]["status"] == "ok"


def test_the_final_table_summarises_the_run_in_the_terminal(run: Path) -> None:
    text = shown_table(run)
    for words in (
        "quickstart: completed",
        "Test UAR",
        "67.4%",
        "9 of 12",
        "saved against sending everything",
        "1 min 33 s",
    ):
        assert words in text


def shown_table(directory: Path) -> str:
    console = Console(width=100, file=StringIO())
    console.print(final_table(read_run(directory)))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_run_without_scores_has_a_dash_for_those_of_one_class_per_sample(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "begun")
    for name in ("metrics.jsonl", "result.json"):
        (directory / name).unlink()
    text = shown_table(directory)
    assert all(words in text for words in ("Test accuracy", "Test UAR", "Test macro-F1"))
    assert "AUROC" not in text


def test_a_run_with_several_labels_shows_its_own_scores(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "several")
    scores = {"loss": 0.3, "accuracy": 0.9, "macro_auroc": 0.8125, "macro_auroc_error": 0.0004, "macro_f1": 0.7}
    lines = [{"round": turn, "split": "validation", "n": 200, **scores} for turn in (1, 2)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((directory / "result.json").read_text())
    (directory / "result.json").write_text(json.dumps({**result, "test": {**scores, "n": 24}}))
    page = report(directory)
    for words in (
        "Test Macro-AUROC 81.2% ± 0.04% mean area under the ROC curve; chance is 50%; ± bounds the error due to the",
        "Test Accuracy 90.0% share of correct yes-or-no answers, over all classes",
        "Test loss 0.3 binary cross-entropy, mean over the classes, over 24 samples",
        "Validation Macro-AUROC",
    ):
        assert words in page.words
    assert "UAR" not in page.words
    assert "Test macro-AUROC" in shown_table(directory) and "UAR" not in shown_table(directory)
    assert "81.2% ± 0.04%" in shown_table(directory)


def test_a_metric_of_ones_own_that_is_no_share_is_shown_by_its_own_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bits(Metric):
        title, explanation, percentage = "Bits", "information per sample", False

        @staticmethod
        def compute(counts: Counts) -> float:
            raise NotImplementedError

    monkeypatch.setitem(METRICS._classes, "bits", Bits)
    directory = write_run(tmp_path / "own")
    lines = [{"round": turn, "split": "validation", "uar": 0.5, "bits": 2.5 + turn} for turn in (1, 2)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((directory / "result.json").read_text())
    (directory / "result.json").write_text(json.dumps({**result, "test": {"uar": 0.5, "bits": 3.25}}))
    page = report(directory)
    for words in ("Test Bits 3.25 information per sample", "Bits, round 2: 4.5", "UAR, round 2: 50.0%"):
        assert words in page.words
    assert "Test bits" in shown_table(directory) and "3.25" in shown_table(directory)


def test_an_exact_score_has_no_bound(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "exact")
    result = json.loads((directory / "result.json").read_text())
    scores = {"loss": 0.3, "accuracy": 0.9, "macro_auroc": 0.8125, "macro_auroc_error": 0.0, "macro_auroc_classes": 3}
    (directory / "metrics.jsonl").unlink()
    (directory / "result.json").write_text(json.dumps({**result, "test": {**scores, "n": 24}}))
    page, table = report(directory), shown_table(directory)
    assert "Test Macro-AUROC 81.2% mean area" in page.words and "±" not in page.words
    assert "81.2%" in table and "±" not in table


def test_grid_is_a_png_of_whole_pixels(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 3, 16, 16))
    images[0, 1, :, :8] = 1.0
    save_grid(tmp_path / "grid.png", ["source m0", "to $m_1$", "to m2"], ["a", "b"], images)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[1] > 3 * 84
    assert np.isin(pixels, (0, 255)).mean() > 0.97  # nothing between the values but the titles' edges
    with pytest.raises(FedReconError, match="expected images"):
        save_grid(tmp_path / "grid.png", ["one"], ["a", "b"], images)


MANY, ASKED = 1000, range(900, 950)


def site_name(site: int) -> str:
    return f"site-{site:04d}"


def reply(site: int) -> str:
    seconds = {"task_seconds": 1.0, "total_seconds": 1.5}
    numbers = {"round": 1, "samples": 4, "bytes_down": 100, "bytes_up": 50, **seconds}
    return json.dumps({"site": site_name(site), "status": "ok", **numbers}) + "\n"


def many_sites(directory: Path, sites: int) -> str:
    described = [
        {"name": site_name(s), "samples": 4, "modalities": {"m": 1.0}, "classes": [2, 2]} for s in range(sites)
    ]
    manifest = {"modalities": ["m"], "classes": ["a", "b"], "full_bytes": 100, "sites": described}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "sites.jsonl").write_text("".join(reply(s) for s in ASKED if s < sites))
    return write_report(directory).read_text()


@pytest.mark.quick
def test_of_very_many_sites_those_that_took_part_have_rows(tmp_path: Path) -> None:
    found = many_sites(tmp_path, MANY)
    assert all(site_name(site) in found for site in (*ASKED, 0, MAX_ROWS - len(ASKED) - 1))
    assert site_name(MAX_ROWS - len(ASKED)) not in found
    assert site_name(MANY - 1) not in found
    assert found.count(f"{MAX_ROWS} of 1,000 sites") == 5  # participation, modalities, classes, traffic, time


@pytest.mark.quick
def test_up_to_the_limit_every_site_has_a_row(tmp_path: Path) -> None:
    found = many_sites(tmp_path, MAX_ROWS)
    assert all(site_name(site) in found for site in range(MAX_ROWS))
    assert " sites, those that took part first" not in found


@pytest.mark.quick
def test_totals_include_sites_without_a_row(tmp_path: Path) -> None:
    assert "5.0 kB" in many_sites(tmp_path, MANY)  # 50 downloads of 100 bytes


# --- the frame of both reports --------------------------------------------------------------------------------------


@pytest.mark.quick
def test_cells_carry_raw_values_to_sort_by_and_sums_stay_last(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    text = write_report(directory).read_text()
    sent = traffic(read_run(directory), "down").sent
    assert f'<td data-sort="{sent}">{size(sent)}</td>' in text
    time = Page(text[text.index('<section id="time"') : text.index('<section id="details"')])
    assert [tag for tag, _ in time.elements if tag in ("thead", "tbody", "tfoot")] == ["thead", "tbody", "tfoot"]
    assert not Page(text).all("button")  # the script creates them: without it they would do nothing


@pytest.mark.quick
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


@pytest.mark.quick
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


@pytest.mark.quick
def test_reports_can_be_written_at_the_same_time(tmp_path: Path) -> None:
    texts = [letter * 200_000 for letter in "ab"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: write_page(tmp_path, text), texts * 20))
    assert (tmp_path / "report.html").read_text() in texts
    assert names_in(tmp_path) == {"report.html"}


@pytest.mark.quick
def test_a_report_that_cannot_be_written_is_one_line_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names_in(write_run(tmp_path)) | {"report.html"}
    (tmp_path / "report.html").mkdir()
    code, out, err = caller(monkeypatch, capsys)("report", tmp_path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    advice = "free disk space, or correct the permissions"
    assert f"fedrecon: cannot write {tmp_path / 'report.html'}: Is a directory; {advice}" in err
    assert names_in(tmp_path) == before


@pytest.mark.quick
def test_a_full_disk_leaves_the_old_report_and_the_old_picture(tmp_path: Path) -> None:
    images, paths = np.zeros((1, 1, 3, 8, 8)), [tmp_path / "report.html", tmp_path / "grid.png"]
    write_page(tmp_path, "before")
    save_grid(paths[1], ["one"], ["a"], images)
    before = [path.read_bytes() for path in paths]
    with (
        files_end_at(100),
        pytest.raises(RunError, match=r"cannot write .*report\.html: File too large; free disk space"),
    ):
        write_page(tmp_path, "after" * 100)
    with files_end_at(100), pytest.raises(RunError, match=r"cannot write .*grid\.png: File too large; free disk space"):
        save_grid(paths[1], ["one"], ["a"], images + 1)
    assert [path.read_bytes() for path in paths] == before
    assert names_in(tmp_path) == {"report.html", "grid.png"}


@pytest.mark.quick
@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [0.1, 0.72], [-5.0, 12_345.0], [1e-9, 2e-9], [210.0, 850.0]])
def test_ticks_enclose_the_values(values: list[float]) -> None:
    ticks = nice_ticks(values)
    assert ticks[0] <= min(values) + 1e-12 and ticks[-1] >= max(values) - 1e-12
    assert 2 <= len(ticks) <= 8


@pytest.mark.quick
@pytest.mark.parametrize(("last", "expected"), [(1, [1]), (3, [1, 2, 3]), (12, [1, 4, 6, 8, 10, 12])])
def test_round_ticks_are_whole_and_end_at_the_last(last: int, expected: list[int]) -> None:
    assert round_ticks(1, last) == expected

"""The report of a sweep: whole and broken sweeps, every state of a trial, hostile names, and the same bytes again."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from fedrecon_core.errors import DataError
from server.analysis.packed import pack
from server.analysis.rendering import sheets
from server.analysis.results import load_results
from server.report.sweep import SECTIONS, write_sweep_report
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from tests.helpers.reports import Page
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results, write_sweep

PARAMETERS = {"recovery": ["zero", "mask"], "rate": ["0.3", "0.6"], "seed": ["1", "2"]}
TABLE = {"rows": ["recovery"], "columns": ["rate"], "metrics": ["accuracy"], "baseline": {"recovery": "mask"}}


def predictions(labels):
    chance = {"zero": 0.2, "mask": 0.5}.get(labels["recovery"], 0.4)
    return right_with(chance, int(labels["seed"]))


def trial_of(folder: Path, *values: str) -> Path:
    return folder / "cells" / "-".join(values)


def write_metrics(trial: Path, scores: list[float]) -> None:
    lines = [{"round": turn, "split": "validation", "accuracy": score} for turn, score in enumerate(scores, 1)]
    (trial / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def report(folder: Path) -> Page:
    return Page(write_sweep_report(folder).read_text(encoding="utf-8"))


def empty_sections(page: Page) -> set[str]:
    return {section.anchor for section in SECTIONS if section.empty and section.empty in page.words}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_results(tmp_path / "sweep", PARAMETERS, predictions, **TABLE)


def test_a_whole_sweep_has_the_tables_of_the_command_and_its_curves(sweep):
    page = report(sweep)
    assert [section["id"] for section in page.all("section")] == [section.anchor for section in SECTIONS]
    assert empty_sections(page) == {"learning", "failures"}
    for sheet in sheets(load_results(sweep).compared_tables()):
        for words in (sheet.title, *sheet.header, *(text.text for row in sheet.rows for text in row), *sheet.about):
            assert words in page.words
    assert "8 of 8" in page.words and "complete" in page.words
    assert len(page.all("polyline")) == 2  # a line for each recovery over the rate
    assert "zero, rate 0.3: " in page.words and "over 2 seeds" in page.words
    assert len(page.all("b")) > 2 and len(page.all("u")) == 2
    keys = [cell.get("data-sort") for cell in page.all("td")]
    (table,) = load_results(sweep).tables()
    assert {str(mean) for mean in table.cells["mean"]} <= set(keys)  # sorted by the numbers, not by their texts


def test_ids_are_unique_captions_are_there_and_nothing_is_fetched(sweep):
    page = report(sweep)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("script") == [{}] and not page.all("img") and not page.all("link")
    text = (sweep / "report.html").read_text()
    assert "http:" not in text and "https:" not in text and str(sweep) not in text


def test_learning_curves_are_means_over_the_seeds_that_have_them(sweep):
    write_metrics(trial_of(sweep, "zero", "0.3", "1"), [0.1, 0.2, 0.4])
    write_metrics(trial_of(sweep, "zero", "0.3", "2"), [0.3, 0.4])
    write_metrics(trial_of(sweep, "mask", "0.3", "2"), [0.5, 0.6])
    page = report(sweep)
    assert empty_sections(page) == {"failures"}
    for words in ("zero, round 1: 20.0%", "zero, round 2: 30.0%", "mask, round 2: 60.0%", "Accuracy: rate 0.3"):
        assert words in page.words
    assert "round 3" not in page.words  # one seed alone has it
    assert "Accuracy: rate 0.6" not in page.words


def test_every_state_of_a_trial_is_shown(tmp_path):
    lacking = ("2", "0.6")
    folder = write_results(
        tmp_path / "sweep",
        PARAMETERS,
        lambda trial: None if (trial["seed"], trial["rate"]) == lacking else predictions(trial),
        **TABLE,
    )
    failed, begun = trial_of(folder, "mask", "0.3", "1"), trial_of(folder, "zero", "0.3", "1")
    error = "round 3: 1 of 4 sites replied, quorum 0.5 needs 2\nTraceback: <lost>"
    (failed / "result.json").write_text(json.dumps({"status": "failed", "error": error}))
    (failed / "cell.log").write_text("it said this")
    (failed / "report.html").write_text("its own")
    (begun / "result.json").unlink()
    page = report(folder)
    for words in ("4 of 8", "failed trials", "1 trial failed", "4 of 8 trials are not complete and left out"):
        assert words in page.words
    for words in ("round 3: 1 of 4 sites replied", "Traceback: <lost>", "recovery mask, rate 0.3, seed 1"):
        assert words in page.words
    links = {unquote(link["href"] or "") for link in page.all("a")}
    assert {"cells/mask-0.3-1/cell.log", "cells/mask-0.3-1/report.html"} <= links
    assert all((folder / link).is_file() for link in links if not link.startswith("#"))
    states = [(trial.get("class") or "").rpartition("state-")[2] for trial in page.all("td")]
    counted = {state: states.count(state) for state in ("complete", "failed", "unfinished", "missing")}
    assert counted == {"complete": 4, "failed": 1, "unfinished": 1, "missing": 2}


def test_a_failure_without_a_log_names_where_it_would_be(sweep):
    (trial_of(sweep, "zero", "0.3", "1") / "result.json").write_text('{"status": "failed"}')
    page = report(sweep)
    assert "1 of 8 trials is not complete" in page.words
    assert "no reason was given" in page.words and "cells/zero-0.3-1/cell.log (missing)" in page.words


def test_a_sweep_without_a_complete_trial_still_has_a_report(tmp_path):
    page = report(write_results(tmp_path / "sweep", PARAMETERS, lambda labels: None, **TABLE))
    assert empty_sections(page) == {"scores", "curves", "learning", "costs", "failures"}
    assert "0 of 8" in page.words and len(page.all("tr")) == 9


def test_results_that_cannot_be_compared_are_reported_and_the_trials_shown(sweep):
    raw = yaml.safe_load((sweep / "sweep.yaml").read_text())
    raw["table"]["reference"] = "published.csv"
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    page = report(sweep)
    assert "The results cannot be compared:" in page.words and "published.csv" in page.words
    assert "8 of 8" in page.words and len(page.all("tr")) == 9


def test_values_that_are_no_numbers_have_no_curve_over_them(tmp_path):
    axes = {"recovery": ["zero", "mask"], "kind": ["site", "sample"], "seed": ["1"]}
    page = report(write_results(tmp_path / "sweep", axes, predictions))
    assert "curves" in empty_sections(page) and not page.all("polyline")
    assert "UAR" in page.words  # the metric that chose the best round


def test_a_tooltip_has_the_deviation_the_seeds_and_the_published_value(tmp_path):
    (tmp_path / "published.csv").write_text("recovery,rate,metric,value\nzero,0.3,accuracy,61.5\n")
    folder = write_results(tmp_path / "sweep", PARAMETERS, predictions, **TABLE, reference="published.csv")
    shutil.copy(tmp_path / "published.csv", folder)
    (table,) = load_results(folder).tables()
    cell = table.cell((0, 0))
    assert cell["deviation"] > 0
    tooltip = f"{100 * cell['mean']:.1f}% ± {100 * cell['deviation']:.1f} over 2 seeds; published: 61.5"
    page = report(folder)
    assert f"zero, rate 0.3: {tooltip}" in page.words
    spreads = [line for line in page.all("line") if line.get("class") == "spread"]
    assert len(spreads) == (table.cells["deviation"] > 0).sum() > 0


def test_values_that_are_close_to_each_other_get_a_logarithmic_axis(tmp_path):
    axes = {"recovery": ["mask"], "alpha": ["0.1", "1", "10", "100"], "seed": ["1"]}
    page = report(write_results(tmp_path / "sweep", axes, predictions))
    places = [float(mark["cx"] or "nan") for mark in page.all("circle")]
    gaps = [after - before for before, after in pairwise(places)]
    assert len(gaps) == 3 and max(gaps) - min(gaps) < 0.2
    assert "mask, alpha 100: " in page.words


def test_a_method_has_one_color_in_all_charts(sweep):
    write_metrics(trial_of(sweep, "zero", "0.3", "1"), [0.1, 0.2])
    for rate in ("0.3", "0.6"):
        write_metrics(trial_of(sweep, "mask", rate, "1"), [0.5, 0.6])
    page = report(sweep)
    lines = [group["class"] for group in page.all("g") if (group.get("class") or "").startswith("line")]
    assert lines == ["line c1", "line c2", "line c1", "line c2", "line c2"]  # by value, at 0.3, at 0.6 without `zero`


def test_a_legend_shows_the_last_value_over_rounds_but_not_over_a_parameter(sweep):
    write_metrics(trial_of(sweep, "mask", "0.3", "1"), [0.5, 0.6])
    _, *sections = write_sweep_report(sweep).read_text().split('<section id="')
    legends = {one.partition('"')[0]: re.findall(r'<ul class="legend">.*?</ul>', one, re.DOTALL) for one in sections}
    assert [Page(one).words for one in legends["curves"]] == ["zero mask"]
    assert [Page(one).words for one in legends["learning"]] == ["mask 60.0%"]


def test_a_sweep_of_seeds_alone_has_a_report(tmp_path):
    page = report(write_results(tmp_path / "sweep", {"seed": ["1", "2"]}, lambda trial: right_with(0.5, 1)))
    assert "scores" not in empty_sections(page) and "costs" not in empty_sections(page)


def test_a_packed_sweep_has_the_same_scores_and_no_links_to_trials(sweep, tmp_path):
    pack(sweep, tmp_path / "packed")
    page, packed = report(sweep), report(tmp_path / "packed")
    assert "This sweep is packed." in packed.words
    assert {link["href"] for link in packed.all("a")} <= {f"#{section.anchor}" for section in SECTIONS} | {"#content"}
    first, last = "Accuracy (%)", "Scores by value Test scores"
    assert page.words.split(first)[1].split(last)[0] == packed.words.split(first)[1].split(last)[0]


def test_hostile_names_stay_text(tmp_path):
    evil = '<b>x</b>"><script>alert(1)</script>'
    axes = {"recovery": ["zero", evil], "rate": ["0.3", "0.6"], "seed": ["1"]}
    folder = write_results(tmp_path / "sweep", {**axes, "recovery": ["zero", "other"]}, predictions)
    raw = yaml.safe_load((folder / "sweep.yaml").read_text())
    raw.update(name="</title><script>1</script>", axes=axes)
    for trial in raw["cells"]:
        trial["labels"]["recovery"] = trial["labels"]["recovery"].replace("other", evil)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    failed = trial_of(folder, "zero", "0.3", "1")
    (failed / "result.json").write_text(json.dumps({"status": "failed", "error": evil}))
    page = report(folder)
    assert page.all("script") == [{}]
    assert evil in page.words
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_a_report_has_the_same_bytes_again_and_elsewhere(sweep, tmp_path):
    first = write_sweep_report(sweep).read_bytes()
    assert write_sweep_report(sweep).read_bytes() == first
    shutil.copytree(sweep, tmp_path / "copy")
    assert write_sweep_report(tmp_path / "copy").read_bytes() == first
    assert [path.name for path in sweep.iterdir() if "report" in path.name] == ["report.html"]


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


def test_the_command_recognises_sweeps_and_runs(sweep, call, tmp_path):
    assert call("report", sweep) == (0, f"{sweep / 'report.html'}\n", "")
    assert "FedRecon sweep" in (sweep / "report.html").read_text()
    trial = trial_of(sweep, "zero", "0.3", "1")
    assert call("report", trial)[0] == 0
    assert "FedRecon run" in (trial / "report.html").read_text()
    refused(call("report", tmp_path), f"found a folder of runs or sweeps, {tmp_path}: name one: {sweep}")
    (tmp_path / "empty").mkdir()
    refused(call("report", tmp_path / "empty"), "expected a run directory")


def test_a_command_that_repeats_a_trial_can_be_copied(sweep):
    words = report(sweep).words
    (folder,) = re.findall(r"fedrecon run cells/(\S+)/config\.yaml --out repeated", words)
    assert (sweep / "cells" / folder / "config.yaml").is_file()


def test_a_folder_that_is_no_sweep_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected a directory written by `fedrecon sweep`"):
        write_sweep_report(tmp_path)
    (tmp_path / "sweep.yaml").write_text("[")
    with pytest.raises(DataError, match="is damaged"):
        write_sweep_report(tmp_path)


def completed(folder: Path) -> tuple[Path, Path]:
    """The YAML of a sweep, and its directory, in which every trial is complete."""
    config, out = write_sweep(folder), folder / "out"
    for place, trial in enumerate(build_trials(read_definition(config), folder)):
        path = SweepDirectory(out).run_of(trial).path
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(trial.config.to_yaml())
        test = {"uar": 0.5 + place / 100, "loss": 1.0}
        (path / "result.json").write_text(json.dumps({"status": "completed", "rounds": 2, "test": test}))
    return config, out


def test_a_sweep_ends_with_its_report(tmp_path, call):
    config, out = completed(tmp_path)
    code, out_text, _ = call("sweep", config, "--out", out)
    assert code == 0
    assert out_text.splitlines()[-2:] == [f"report {out / 'report.html'}", f"all 4 trials are complete in {out}"]
    assert "50.5 ± 0.7" in Page((out / "report.html").read_text()).words


def test_a_report_that_cannot_be_written_does_not_fail_the_sweep(tmp_path, call):
    config, out = completed(tmp_path)
    (out / "report.html").mkdir()
    code, out_text, _ = call("sweep", config, "--out", out)
    assert code == 0
    note, verdict = out_text.splitlines()[-2:]
    assert note.startswith(
        f"note: report.html could not be written: cannot write {out / 'report.html'}: Is a directory"
    )
    assert verdict == f"all 4 trials are complete in {out}"

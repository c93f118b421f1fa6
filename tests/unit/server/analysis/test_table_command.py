"""``fedrecon table``: what a person sees of a sweep, in the terminal and in the three files."""

import csv
import html
import json
import re

import pytest
import yaml

from server.analysis.rendering import Sheet, Text, score, signed_score, to_latex, to_markdown
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results

PARAMETERS = {"recovery": ["zero", "mask"], "rate": ["0.3", "0.6"], "seed": ["1", "2"]}
TABLE = {"rows": ["recovery"], "columns": ["rate"], "metrics": ["accuracy"], "baseline": {"recovery": "mask"}}


def predicted(labels):
    chance = {"zero": 0.2, "mask": 0.5}[labels["recovery"]]
    return right_with(chance, int(labels["seed"]))


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def sweep(tmp_path):
    return write_results(tmp_path / "sweep", PARAMETERS, predicted, **TABLE)


def trials_of(line):
    return [trial.strip() for trial in line.strip("|").split("|")]


def test_the_table_is_markdown_with_scores_differences_and_costs(sweep, call):
    code, out, err = call("table", sweep)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("#")] == [
        "### Accuracy (%)",
        "### Accuracy less that of recovery mask (points)",
        "### What the scores cost",
    ]
    lines = [trials_of(line) for line in out.splitlines() if line.startswith("|")]
    right = [(predicted({"recovery": "mask", "seed": seed}) == right_with(1.1, 0)).mean() for seed in "12"]
    mean = f"{100 * sum(right) / 2:.1f}"
    assert lines[0] == ["recovery", "rate 0.3", "rate 0.6"]
    assert lines[3][0] == "mask"
    assert lines[3][1].startswith(f"**{mean} ± ")
    assert lines[2][1].startswith("<ins>")
    assert ["zero", "0.3"] in [line[:2] for line in lines]
    assert ["mask", "0.6", "2", "40.0%", "30.0%", "10.0 kB", "42", "2.5 s"] in lines
    assert "mean ± standard deviation over 2 seeds" in out
    assert out.endswith("\n")


def test_the_three_files_hold_the_same_table_and_are_the_same_when_made_again(sweep, call, tmp_path):
    _, out, err = call("table", sweep, "--out", tmp_path / "first")
    assert err == f"table.md, table.csv and table.tex are in {tmp_path / 'first'}\n"
    call("table", sweep, "--out", tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["table.csv", "table.md", "table.tex"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert (tmp_path / "first" / "table.md").read_text() == out
    tex = (tmp_path / "first" / "table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3
    assert r"\underline{" in tex


def test_only_columns_of_time_differ_between_two_runs_of_a_sweep(call, tmp_path):
    for turn, seconds in (("first", 3.0), ("second", 99.0)):
        folder = write_results(tmp_path / turn, PARAMETERS, predicted, **TABLE)
        for path in folder.glob("cells/*/result.json"):
            change(path, train_seconds=seconds, train_processor_seconds=seconds / 2)
        call("table", folder, "--out", tmp_path / turn / "out")
    first, second = (list(csv.DictReader((tmp_path / turn / "out/table.csv").open())) for turn in ("first", "second"))
    assert first != second
    for one, other in zip(first, second, strict=True):
        assert {k for k in one if one[k] != other[k]} == {"train_seconds", "train_processor_seconds"}
    pages = [(tmp_path / turn / "out/table.md").read_text() for turn in ("first", "second")]
    assert pages[0] != pages[1]
    assert len({page.replace("49.5 |", "1.5 |") for page in pages}) == 1


def test_processor_time_is_shown_where_every_trial_has_it_and_else_the_clock_with_a_word_on_it(sweep, call):
    results = list(sweep.glob("cells/*/result.json"))
    for path in results[1:]:
        change(path, train_processor_seconds=1.25)
    clock = call("table", sweep)[1]
    assert "Training time (wall clock) |" in clock and "2.5 s |" in clock and "CPU s" not in clock
    assert f"1 of {len(results)} cells did not measure the processor's" in clock
    change(results[0], train_processor_seconds=1.25)
    processor = call("table", sweep)[1]
    assert "| CPU s |" in processor and "| 1.25 |" in processor and "wall clock" not in processor


def test_of_trials_on_a_gpu_the_clock_is_shown_since_the_processor_waits_there(sweep, call):
    for path in sweep.glob("cells/*/result.json"):
        change(path, train_processor_seconds=1.25)
        change(path.with_name("manifest.json"), device="cpu")
    assert "| CPU s |" in call("table", sweep)[1]
    change(next(iter(sweep.glob("cells/*/manifest.json"))), device="cuda")
    expected = call("table", sweep)[1]
    assert "Training time (wall clock) |" in expected and "1 of 8 cells did not measure the processor's, or" in expected


def test_trials_that_were_not_made_alike_are_told_wherever_they_are_compared(sweep, call, tmp_path):
    manifests = sorted(sweep.glob("cells/*/manifest.json"))
    for path in manifests:
        change(path, code_sha256="a" * 64, device="cpu", engine="inprocess", versions={"torch": "2.13.0"})
    assert "The 8 trials were computed with" not in call("table", sweep)[1] + call("plot", sweep)[2]
    for path in manifests[:3]:
        change(path, code_sha256="b" * 64, versions={"torch": "2.12.1"})
    change(manifests[0], device="cuda")
    manifests[1].unlink()
    _, out, _ = call("table", sweep, "--out", tmp_path / "out")
    expected = [
        "The 8 trials were computed with 2 versions of the code (5 of aaaaaaaaaaaa, 2 of bbbbbbbbbbbb and 1 unknown)",
        "The 8 trials were computed with 2 versions of PyTorch (5 of 2.13.0, 2 of 2.12.1 and 1 unknown), which",
        "The 8 trials were computed with 2 devices (6 of cpu, 1 of cuda and 1 unknown), which may explain differences",
    ]
    assert "engines" not in out  # the one that has no manifest says nothing of its engine
    pages = [out, (tmp_path / "out" / "table.tex").read_text(), call("plot", sweep)[2]]
    call("report", sweep)
    for page in (*pages, (sweep / "report.html").read_text(encoding="utf-8")):
        assert [words for words in expected if words not in page] == []
    assert "The 8 trials" not in call("table", sweep, "--only", "recovery=zero", "--only", "seed=2")[1]


def test_the_long_csv_has_every_number_as_it_is(sweep, call, tmp_path):
    call("table", sweep, "--out", tmp_path / "out")
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [(line["recovery"], line["rate"]) for line in lines] == [
        ("zero", "0.3"), ("zero", "0.6"), ("mask", "0.3"), ("mask", "0.6"),
    ]  # fmt: skip
    mask = lines[2]
    assert (mask["metric"], mask["seeds"], mask["place"], mask["difference"]) == ("accuracy", "2", "best", "")
    assert (mask["missing_train"], mask["missing_validation"], mask["tensor_bytes"]) == ("0.4", "", "10000.0")
    zero = lines[0]
    assert float(zero["difference"]) == pytest.approx(float(zero["mean"]) - float(mask["mean"]))
    assert float(zero["difference_low"]) <= float(zero["difference"]) <= float(zero["difference_high"])
    assert float(zero["p"]) == float(zero["p_holm"])


def test_the_long_csv_tells_rounds_sites_and_faults_as_means_over_the_seeds(sweep, call, tmp_path):
    for seed, best in (("1", 1), ("2", 2)):
        trial = sweep / "cells" / f"mask-0.3-{seed}"
        change(trial / "result.json", best_round=best)
        sites = [{"name": f"site-000{place}", "samples": place} for place in range(4)]
        change(trial / "manifest.json", sites=sites, protocol_faults=["It leaks.", "It drifts."])
    (sweep / "cells" / "zero-0.6-1" / "manifest.json").unlink()
    call("table", sweep, "--out", tmp_path / "out")
    expected = ("bytes_per_site", "sites", "sites_out", "best_round", "rounds", "protocol_faults")
    lines = {
        (line["recovery"], line["rate"]): [line[name] for name in expected]
        for line in csv.DictReader((tmp_path / "out" / "table.csv").open())
    }
    assert lines["mask", "0.3"] == ["2500.0", "4.0", "1.0", "1.5", "2.0", "It leaks. It drifts."]
    assert lines["zero", "0.3"] == ["5000.0", "2.0", "0.0", "", "2.0", ""]
    assert lines["zero", "0.6"] == ["", "", "", "", "2.0", ""]


def test_a_command_may_lay_the_table_out_otherwise(sweep, call):
    code, out, _ = call("table", sweep, "--set", "rows=rate", "--set", "columns=[]", "--set", "metrics=[uar, loss]")
    assert code == 0
    assert "### UAR (%): recovery zero" not in out  # recovery takes the columns' place
    assert "| rate | recovery zero | recovery mask |" in out
    assert "### Loss\n" in out
    assert "loss cannot be computed from predictions" in out


def test_without_a_section_parameters_take_their_places_and_the_selected_metric_is_shown(tmp_path, call):
    code, out, _ = call("table", write_results(tmp_path / "sweep", PARAMETERS, predicted))
    assert code == 0
    assert out.startswith("### UAR (%)\n\n| recovery | rate 0.3 | rate 0.6 |")
    assert "less that of" not in out


def test_of_a_loss_the_difference_is_told_without_an_interval(sweep, call):
    code, out, _ = call("table", sweep, "--set", "metrics=loss")
    assert code == 0
    sheet = out.split("less that of recovery mask")[1].split("###")[0]
    fields = [trials_of(line) for line in sheet.splitlines() if line.startswith("| zero")]
    assert [found[2:] for found in fields] == 2 * [["+0.167", "–", "–", "–", "2", "–"]]
    assert re.search(
        r"\nPaired by seed\.\n\nNo interval for recovery=zero, .*: loss cannot be computed from predictions\.", out
    )


@pytest.mark.parametrize(
    ("value", "metric", "printed"),
    [
        (0.0123, "uar", ("1.2", "+1.2")),
        (-0.0123, "uar", ("-1.2", "-1.2")),
        (0.0004, "uar", ("0.0", "0.0")),
        (-0.0004, "uar", ("0.0", "0.0")),
        (0.0006, "uar", ("0.1", "+0.1")),
        (0.1, "uar", ("10.0", "+10.0")),
        (0.0004, "loss", ("0.000", "0.000")),
        (-0.0004, "loss", ("0.000", "0.000")),
        (0.5, "loss", ("0.500", "+0.500")),
    ],
)
def test_a_nought_has_no_sign(value, metric, printed):
    assert (score(value, metric), signed_score(value, metric)) == printed


def test_numbers_are_no_rivals_unless_a_baseline_says_so(sweep, call):
    turned = ("--set", "rows=rate", "--set", "columns=recovery")
    assert "**" in call("table", sweep, *turned)[1]
    code, out, _ = call("table", sweep, *turned, "--set", "baseline={}")
    assert code == 0
    assert "**" not in out and "Bold" not in out


def test_a_part_is_shown_alone(sweep, call):
    code, out, _ = call("table", sweep, "--only", "rate=0.3", "--set", "columns=[]")
    assert code == 0
    assert "rate 0.6" not in out
    refused(call("table", sweep, "--only", "rate=0.4"), "--only.rate: unknown value '0.4'; known: 0.3, 0.6")


def test_a_part_without_the_baseline_says_that_it_has_no_differences_and_why(sweep, call):
    code, out, err = call("table", sweep, "--only", "recovery=zero")
    assert (code, err) == (0, "")
    assert out.count("No differences: no selected trial has the baseline recovery=mask; --only must include it.") == 1
    assert "No interval" not in out
    raw = yaml.safe_load((sweep / "sweep.yaml").read_text())
    kept = [trial for trial in raw["cells"] if trial["labels"]["recovery"] != "mask"]
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({**raw, "cells": kept}))  # its `only` may leave it out as well
    assert "No differences: no selected trial has the baseline recovery=mask" in call("table", sweep)[1]
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(raw))
    assert "No differences" not in call("table", sweep, "--only", "recovery=zero,mask", "--only", "seed=1")[1]


def test_published_values_of_unknown_names_are_named_with_the_nearest_known_and_excel_is_understood(sweep, call):
    rows = ["metric,recovery,value", "accuracy,mask,51.25", "accuracy,zeros,9", "acuracy,zero,3", "accuracy,gan,4"]
    (sweep / "ours.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    reference = ("--set", f"reference={sweep / 'ours.csv'}")
    code, out, err = call("table", sweep, *reference)
    assert (code, err) == (0, "")
    assert " [51.25]**" in out
    expected = "Published values with names that this sweep does not have are not shown: "
    names = "recovery 'zeros' (Did you mean 'zero'?), metric 'acuracy' (Did you mean 'accuracy'?) and recovery 'gan'."
    assert expected + names in out
    assert expected + names in call("plot", sweep, *reference)[2]
    raw = yaml.safe_load((sweep / "sweep.yaml").read_text())
    raw["table"]["reference"] = "ours.csv"
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(raw))
    assert call("report", sweep)[0] == 0
    page = html.unescape((sweep / "report.html").read_text(encoding="utf-8"))
    assert expected + names in page


def test_trials_that_are_not_complete_are_told(tmp_path, call):
    folder = write_results(
        tmp_path / "sweep", PARAMETERS, lambda labels: None if labels["seed"] == "2" else predicted(labels)
    )
    _, out, _ = call("table", folder)
    assert "Test scores of one seed." in out
    expected = "Left out, not complete: 4 of 8 trials: recovery=zero, rate=0.3, seed=2 (missing); "
    assert expected in out
    code, paths, err = call("plot", folder)
    assert code == 0
    assert expected in err and expected not in paths


def test_fewer_seeds_than_others_are_told_in_the_field(tmp_path, call):
    lacking = {"zero", "0.3", "2"}
    folder = write_results(
        tmp_path / "sweep", PARAMETERS, lambda labels: None if lacking <= {*labels.values()} else predicted(labels)
    )
    _, out, _ = call("table", folder)
    (line,) = [line for line in out.splitlines() if line.startswith("| zero |") and "n = 1" in line]
    assert "(n = 1)" in trials_of(line)[1]
    assert "n =" not in trials_of(line)[2]


def test_only_means_over_the_same_seeds_are_ranked(sweep, call, tmp_path):
    assert "Not ranked" not in call("table", sweep)[1]
    for lacking in ("zero-0.3-1", "mask-0.3-2"):  # one seed each, and not the same
        (sweep / "cells" / lacking / "result.json").unlink()
    _, out, _ = call("table", sweep, "--out", tmp_path / "out")
    expected = "Not ranked, since the means are not over the same seeds: rate=0.3."
    assert out.count(expected) == 1
    mask = next(trials_of(line) for line in out.splitlines() if line.startswith("| mask |"))
    assert "**" not in mask[1] and mask[2].startswith("**")
    places = {
        (line["recovery"], line["rate"]): line["place"]
        for line in csv.DictReader((tmp_path / "out" / "table.csv").open())
    }
    assert places == {
        ("zero", "0.3"): "", ("mask", "0.3"): "", ("zero", "0.6"): "second", ("mask", "0.6"): "best",
    }  # fmt: skip


def test_a_reference_of_the_command_is_the_callers_whatever_its_name(tmp_path, call, monkeypatch):
    folder = write_results(tmp_path / "sweep", PARAMETERS, predicted, reference="reference.csv")
    for place, value in ((folder, 11), (tmp_path, 99)):
        (place / "reference.csv").write_text(f"recovery,rate,metric,value\nmask,0.3,uar,{value}\n")
    monkeypatch.chdir(tmp_path)
    assert "[11]" in call("table", folder)[1]
    assert "[99]" in call("table", folder, "--set", "reference=reference.csv")[1]


def test_published_values_stand_in_brackets(sweep, call, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("recovery,rate,metric,value\nmask,0.3,accuracy,51.25\n")
    code, out, _ = call("table", sweep, "--set", f"reference={path}")
    assert code == 0
    assert " [51.25]**" in out
    assert "In brackets: published." in out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["rows=[recvery]"], ["table.rows: unknown axis 'recvery'", "Did you mean 'recovery'?"]),
        (["rows=[seed]"], ["table.rows: expected axes to compare, found seed"]),
        (["metrics=[f1]"], ["table.metrics: unknown metric 'f1'; known: "]),
        (
            ["metrics=[macro_auroc]"],
            ["expected scores that complete trials have (accuracy, loss, ", "found none of them"],
        ),
        (
            ["baseline={seed: 1}"],
            ["table.baseline: expected axes to compare, found seed: table entries are means over it"],
        ),
        (["bounds={seed: 1}"], ["table.bounds: expected axes to compare, found seed"]),
        (["baseline={recovery: mean}"], ["table.baseline.recovery: unknown value 'mean'; known: zero, mask"]),
        (["row=[recovery]"], ["table: row: unknown key", "Did you mean 'rows'?"]),
        (["reference=nowhere.csv"], ["nowhere.csv", "published values cannot be read"]),
        (["rows"], ["--set expects key=value, found 'rows'"]),
    ],
)
def test_a_fault_of_the_layout_is_one_line(sweep, call, settings, words):
    refused(call("table", sweep, *(part for text in settings for part in ("--set", text))), *words)


def test_what_is_no_sweep_or_has_no_result_is_one_line(tmp_path, call):
    refused(call("table", tmp_path), "expected a directory written by `fedrecon sweep`, found no sweep.yaml in it")
    folder = write_results(tmp_path / "sweep", PARAMETERS, lambda labels: None)
    refused(call("table", folder), "none of 8 trials is complete; `fedrecon sweep` continues them")


def test_a_place_that_cannot_be_written_is_one_line(sweep, call, tmp_path):
    (tmp_path / "file").write_text("")
    refused(call("table", sweep, "--out", tmp_path / "file"), "expected a folder for table.md, table.csv and table.tex")
    code, _, err = call("table", sweep, "--out", tmp_path / "file" / "below")
    assert code == 2
    assert err.startswith("fedrecon: --out ")
    assert err.count("\n") == 1


ODD_ROWS = [[Text("[z*"), Text("1 ± 2", 1)], [Text("q`"), Text("–", 2)]]
ODD = Sheet("50% of <a|b>_1", ["a_b", "x & y"], ODD_ROWS, ["$5 #1 {} \\|"])


def test_markdown_of_odd_characters():
    assert to_markdown([ODD], ["n*"]).splitlines() == [
        r"### 50% of &lt;a\|b>\_1", "", r"| a_b | x &amp; y |", "| --- | ---: |", r"| [z\* | **1 ± 2** |",
        r"| q\` | <ins>–</ins> |", "", r"$5 #1 {} \\\|", "", r"n\*",
    ]  # fmt: skip


def test_latex_of_odd_characters():
    text = to_latex([ODD])
    title = r"50\% of \textless{}a\textbar{}b\textgreater{}\_1"
    assert title + r". \$5 \#1 \{\} \textbackslash{}\textbar{}}" in text
    assert r"    a\_b & x \& y \\" in text
    assert r"    {[}z* & \textbf{1 $\pm$ 2} \\" in text
    assert r"    q` & \underline{--} \\" in text


def test_a_parameter_with_the_name_of_a_column_keeps_a_column_of_its_own(call, tmp_path):
    axes = {"mean": ["zero", "mask"], "metric": ["0.3"], "seed": ["1", "2"]}
    folder = write_results(tmp_path / "sweep", axes, lambda labels: predicted({"recovery": labels["mean"], **labels}))
    assert call("table", folder, "--out", tmp_path / "out")[0] == 0
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [(line["axis_mean"], line["axis_metric"], line["metric"]) for line in lines] == [
        ("zero", "0.3", "uar"),
        ("mask", "0.3", "uar"),
    ]


def change(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_what_is_wrong_with_a_trials_files_is_told_and_costs_its_own_fields_alone(sweep, call):
    trials = sweep / "cells"
    change(trials / "mask-0.3-1" / "result.json", test={"accuracy": None})
    change(trials / "zero-0.3-2" / "manifest.json", classes=[])
    (trials / "zero-0.6-1" / "config.yaml").write_text("[")
    code, out, err = call("table", sweep)
    assert (code, err) == (0, "")
    assert "Complete, and without this score: mask-0.3-1." in out
    assert "Means marked (n = ...) are over fewer seeds." in out
    assert "No interval for recovery=zero, rate=0.3: " in out
    assert "manifest.json: expected a target (multiclass, multilabel) and classes, found 'multiclass' and 0" in out
    assert "| zero | 0.6 |" in out


def test_a_baseline_without_the_score_has_no_differences(sweep, call):
    for path in sweep.glob("cells/mask-*/result.json"):
        change(path, test={})
    code, out, _ = call("table", sweep)
    assert code == 0
    assert "no complete trial of the baseline has the same seed and a score accuracy" in out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw["cells"][0]["labels"].pop("rate"),
        lambda raw: raw["cells"][0]["labels"].update(rate="0.7"),
        lambda raw: raw["axes"].update(rate=0.3),
        lambda raw: raw.pop("axes"),
        lambda raw: raw["cells"].append(3),
    ],
)
def test_a_sweep_that_was_written_by_hand_and_wrongly_is_told_in_one_line(sweep, call, spoil):
    path = sweep / "sweep.yaml"
    raw = yaml.safe_load(path.read_text())
    spoil(raw)
    path.write_text(yaml.safe_dump(raw))
    refused(call("table", sweep), "sweep.yaml is damaged", "run the sweep again to rewrite it")


def test_values_that_yaml_takes_for_numbers_are_the_same_values(sweep, call):
    path = sweep / "sweep.yaml"
    before = call("table", sweep)
    raw = yaml.safe_load(path.read_text())
    raw["axes"]["rate"] = [0.3, 0.6]
    for trial in raw["cells"]:
        trial["labels"]["rate"] = float(trial["labels"]["rate"])
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert call("table", sweep) == before

"""``fedrecon plot``: what is drawn are the means and deviations over seeds, the published values and the sites' counts;
the same sweep gives the same bytes; whatever does not fit is one line."""

import json
import shutil
import subprocess
import sys
from statistics import fmean, stdev

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba
from PIL import Image

from server.analysis.plots import drawings
from server.analysis.plots.bars import bars
from server.analysis.plots.differences import differences
from server.analysis.plots.lines import lines
from server.analysis.plots.sites import sites
from server.analysis.plots.style import Legend, applied, look, short
from server.analysis.results import load_results
from server.analysis.tables import as_number
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import asked, right_with, write_results

PARAMETERS = {"recovery": ["zero", "mask"], "rate": ["80%", "30%"], "seed": ["1", "2", "3"]}
TABLE = {"rows": ["recovery"], "columns": ["rate"], "metrics": ["accuracy"]}
ABSENT = {"recovery": "mask", "rate": "80%", "seed": "3"}
LONE = {"recovery": "zero", "rate": "30%"}
PUBLISHED = "recovery,rate,metric,value\nmask,30%,accuracy,81.5\nmask,80%,accuracy,62\nzero,30%,uar,1\n"


def predicted(labels):
    if labels == ABSENT or (LONE.items() <= labels.items() and labels["seed"] != "1"):
        return None
    return right_with({"zero": 0.3, "mask": 0.6}[labels["recovery"]], int(labels["seed"]))


def scores(recovery, rate):
    """Accuracies of the cells that are there, in per cent."""
    trials = [{"recovery": recovery, "rate": rate, "seed": seed} for seed in PARAMETERS["seed"]]
    return [
        100 * float(np.mean(predicted(trial) == asked()["label"])) for trial in trials if predicted(trial) is not None
    ]


def ends(values):
    """Of a bar of one standard deviation to each side; no bar of a single value."""
    return [fmean(values) - stdev(values), fmean(values) + stdev(values)] if len(values) > 1 else []


def change_manifest(folder, **changes):
    for path in folder.glob("cells/*/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drawn(kind, folder, *settings, only=()):
    with applied():
        return kind(load_results(folder, settings, only))[0].draw()


def segments(collection):
    """The two y of every bar that is drawn."""
    return [sorted(y for _, y in line) for line in collection.get_segments() if len(line)]


def texts(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("written") / "sweep", PARAMETERS, predicted, **TABLE)


@pytest.fixture
def sweep(written, tmp_path):
    (tmp_path / "published.csv").write_text(PUBLISHED)
    return shutil.copytree(written, tmp_path / "sweep")


@pytest.mark.quick
def test_lines_are_means_over_seeds_with_one_standard_deviation_to_each_side(sweep):
    figure = drawn(lines, sweep)
    (axes,) = figure.axes
    for container, recovery in zip(axes.containers, PARAMETERS["recovery"], strict=True):
        line, _, (bars_of_error,) = container.lines
        own = [scores(recovery, rate) for rate in ("30%", "80%")]
        assert container.get_label() == recovery
        assert line.get_xdata() == pytest.approx([0.3, 0.8])
        assert line.get_ydata() == pytest.approx([fmean(values) for values in own])
        assert segments(bars_of_error) == [pytest.approx(ends(values)) for values in own if len(values) > 1]
    assert axes.get_ylabel() == "Accuracy (%)"
    assert axes.get_xlabel() == "rate"
    assert texts(axes.xaxis) == ["30%", "80%"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["zero", "mask"]


@pytest.mark.quick
def test_what_is_missing_in_effect_stands_below_values_that_differ_in_it(sweep):
    for path in sweep.glob("cells/*-80%-*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["effective_missing"]["train"] = {"a": 0.7, "b": 0.6}
        path.write_text(json.dumps(manifest))
    (axes,) = drawn(lines, sweep).axes
    assert texts(axes.xaxis) == ["30%\n40%", "80%\n65%"]
    assert axes.get_xlabel() == "rate (below: effectively missing in training)"
    for path in sweep.glob("cells/mask-80%-*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["effective_missing"]["train"] = {"a": 0.0, "b": 0.0}
        path.write_text(json.dumps(manifest))
    (axes,) = drawn(lines, sweep).axes  # of two methods that do not agree no rate is that of the level
    assert (texts(axes.xaxis), axes.get_xlabel()) == (["30%", "80%"], "rate")


@pytest.mark.quick
def test_published_values_are_hollow_marks(sweep, tmp_path):
    reference = f"reference={tmp_path / 'published.csv'}"
    (axes,) = drawn(lines, sweep, reference).axes
    (marks,) = [line for line in axes.lines if line.get_label() == "mask (published)"]
    assert marks.get_xdata() == pytest.approx([0.3, 0.8])
    assert marks.get_ydata() == pytest.approx([81.5, 62])
    assert (marks.get_markerfacecolor(), marks.get_linestyle()) == ("none", "None")
    figure = drawn(bars, sweep, reference)
    (marks,) = [line for line in figure.axes[0].lines if line.get_label() == "published"]
    assert marks.get_ydata() == pytest.approx([62, 81.5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["zero", "mask", "published"]


@pytest.mark.quick
def test_parameters_of_the_columns_beside_the_numbers_make_lines_of_their_own(sweep):
    (axes,) = drawn(lines, sweep, "rows=[]", "columns=[rate, recovery]").axes
    assert [container.get_label() for container in axes.containers] == PARAMETERS["recovery"]


@pytest.mark.quick
def test_bars_are_means_from_zero_in_a_group_for_each_column(sweep):
    figure = drawn(bars, sweep)
    (axes,) = figure.axes
    rows = [container for container in axes.containers if hasattr(container, "patches")]
    for place, (row, recovery) in enumerate(zip(rows, PARAMETERS["recovery"], strict=True)):
        own = [scores(recovery, rate) for rate in PARAMETERS["rate"]]
        assert [bar.get_height() for bar in row.patches] == pytest.approx([fmean(values) for values in own])
        assert [bar.get_y() for bar in row.patches] == [0, 0]
        middles = [bar.get_x() + bar.get_width() / 2 for bar in row.patches]
        assert middles == pytest.approx([column - 0.2 + 0.4 * place for column in (0, 1)])
        found = segments(row.errorbar.lines[2][0])
        assert found == [pytest.approx(ends(values)) for values in own if len(values) > 1]
    assert texts(axes.xaxis) == PARAMETERS["rate"]
    assert len({bar.patches[0].get_hatch() for bar in rows}) == len(rows)


@pytest.mark.quick
def test_a_combination_without_results_leaves_its_place_free(tmp_path):
    def some(labels):
        return None if labels == {"recovery": "zero", "rate": "0.6"} else right_with(0.5, 1)

    axes = {"recovery": ["zero", "mask"], "rate": ["0.3", "0.6"]}
    folder = write_results(tmp_path / "sweep", axes, some, **TABLE)
    zero, mask = (bar for bar in drawn(bars, folder).axes[0].containers if hasattr(bar, "patches"))
    assert [len(row.patches) for row in (zero, mask)] == [1, 2]
    assert zero.patches[0].get_x() + zero.patches[0].get_width() / 2 == pytest.approx(-0.2)
    first, second = drawn(lines, folder).axes[0].containers
    assert [list(line.lines[0].get_xdata()) for line in (first, second)] == [[0.3], [0.3, 0.6]]


@pytest.mark.quick
def test_differences_stand_with_their_intervals_and_are_hollow_where_other_seeds_are_unknown(sweep):
    settings = "baseline.recovery=mask", "columns=[rate]"
    table = load_results(sweep, settings).compared_tables()[0]
    found = [table.cell((0, column)) for column in (0, 1)]
    figure = drawn(differences, sweep, *settings)
    (axes,) = figure.axes
    marks = axes.containers
    assert [mark.lines[0].get_xdata()[0] for mark in marks] == pytest.approx(
        [100 * cell["difference"] for cell in found]
    )
    for mark, cell in zip(marks, found, strict=True):
        ((start, _), (end, _)) = mark.lines[2][0].get_segments()[0]
        assert (start, end) == pytest.approx((100 * cell["difference_low"], 100 * cell["difference_high"]))
    assert [cell["difference_seeds"] for cell in found] == [2, 1]
    assert [mark.lines[0].get_markerfacecolor() == "white" for mark in marks] == [False, True]
    assert texts(axes.yaxis) == ["80%", "30%"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first column on top
    assert figure.get_supxlabel() == "Accuracy of zero less that of mask (points)"


@pytest.mark.quick
def test_names_of_groups_are_turned_where_neighbours_would_meet(tmp_path):
    """Whatever room the short names beside them leave."""
    for long, turned in (("b", 0), ("a level with a name of many letters", 30)):
        axes = {"recovery": ["mask"], "rate": ["a", long, f"{long}2", "c"]}
        path = write_results(tmp_path / str(turned), axes, lambda labels: right_with(0.5, 1), **TABLE)
        (found,) = drawn(bars, path).axes
        assert {label.get_rotation() for label in found.xaxis.get_ticklabels()} == {turned}


@pytest.mark.quick
def test_dots_have_the_area_of_the_counts_and_another_color_where_a_modality_lacks(sweep):
    figure = drawn(sites, sweep)
    above, below = figure.axes
    dots = above.collections[0]
    assert dots.get_offsets().tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [1, 2]]
    sizes = dots.get_sizes()
    assert sizes / sizes[-1] == pytest.approx(np.array([10, 5, 20, 5, 30]) / 30)
    lacking = [to_hex(color) == to_hex(look(1).color) for color in dots.get_facecolors()]
    assert lacking == [True, False, True, False, False]
    assert below.collections[0].get_offsets().tolist() == [[0, 1]]
    assert (texts(above.yaxis), texts(below.yaxis)) == (["one", "two", "three"], ["a", "b"])
    assert texts(below.xaxis) == ["0", "1"]
    assert figure.get_suptitle() == "recovery zero, rate 80%, seed 1"
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["3 samples", "15 samples", "30 samples", "modality absent", "site that lacks one"]


@pytest.mark.quick
def test_the_trial_whose_sites_are_shown_is_chosen_and_a_strip_is_there_only_for_what_lacks(sweep):
    site = {"name": "clinic", "samples": 3, "modalities": {"a": 0.2, "b": 1.0}, "classes": [1, 2, 0]}
    change_manifest(sweep, sites=[site])
    figure = drawn(sites, sweep, only=["recovery=mask", "seed=2"])
    assert figure.get_suptitle() == "recovery mask, rate 80%, seed 2"
    assert len(figure.axes) == 1
    assert texts(figure.axes[0].xaxis) == ["clinic"]


@pytest.mark.quick
def test_many_classes_and_sites_have_names_here_and_there(sweep):
    held = {"a": 1.0, "b": 1.0}
    many = [{"name": f"site-{n:04d}", "samples": 90, "modalities": held, "classes": [1] * 90} for n in range(105)]
    change_manifest(sweep, classes=[f"class {n}" for n in range(90)], sites=many)
    (axes,) = drawn(sites, sweep).axes
    assert texts(axes.xaxis)[:3] == ["0", "5", "10"]
    assert texts(axes.yaxis)[:3] == ["class 0", "class 3", "class 6"]
    assert len(axes.collections[0].get_offsets()) == 90 * 105


@pytest.mark.parametrize("kind", ["lines", "differences", "sites"])
def test_the_same_sweep_gives_the_same_bytes_whatever_the_settings_of_matplotlib(sweep, call, tmp_path, kind):
    asked = "--kind", kind, "--set", "baseline.recovery=mask"
    code, out, err = call("plot", sweep, *asked, "--out", tmp_path / "first")
    assert code == 0 and err.startswith("note: Left out, not complete: 3 of 12 trials: ")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        before = dict(matplotlib.rcParams)
        call("plot", sweep, *asked, "--out", tmp_path / "second")
        assert dict(matplotlib.rcParams) == before
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert sorted(out.split()) == [str(tmp_path / "first" / name) for name in names]
    assert [name.rpartition(".")[2] for name in names] == ["png", "svg"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_packed_sweep_gives_the_same_bytes(sweep, call, tmp_path):
    assert call("pack", sweep, tmp_path / "packed")[0] == 0
    for kind in ("lines", "bars", "differences", "sites"):
        asked = "--kind", kind, "--set", "baseline.recovery=mask", "--out", tmp_path / "out"
        made = []
        for folder in (sweep, tmp_path / "packed"):
            code, out, _ = call("plot", folder, *asked)
            assert code == 0
            made.append({path: (tmp_path / "out" / path).read_bytes() for path in out.split()})
        assert made[0] == made[1]


def test_the_files_tell_names_as_text_and_nothing_of_when_they_were_made(sweep, call):
    code, out, _ = call("plot", sweep)
    assert code == 0
    png, svg = out.split()
    assert (png, svg) == tuple(str(sweep / "figures" / f"lines-accuracy.{ending}") for ending in ("png", "svg"))
    text = (sweep / "figures" / "lines-accuracy.svg").read_text()
    for words in ("zero", "mask", "30%", "80%", "rate", "Accuracy (%)"):
        assert f">{words}</text>" in text
    assert "<dc:date>" not in text
    with Image.open(png) as picture:
        assert picture.width == 1020  # 3.4 inches
        assert set(picture.info) == {"dpi"}


def test_sections_and_metrics_have_files_of_their_own_even_where_names_collide(tmp_path, call):
    axes = {"recovery": ["mask"], "rate": ["0.3"], "noise": ["5%", "5!"]}
    folder = write_results(tmp_path / "sweep", axes, lambda labels: right_with(0.5, 1))
    code, out, _ = call("plot", folder, "--kind", "bars")
    assert code == 0
    names = [line.rpartition("/")[2] for line in out.splitlines() if line.endswith("png")]
    assert names == ["bars-uar-noise5_.png", "bars-uar-noise5_-2.png"]


@pytest.mark.quick
def test_without_a_kind_numbers_are_lines_and_names_are_bars(sweep, tmp_path):
    assert drawings(load_results(sweep))[0].name == "lines-accuracy"
    assert drawings(load_results(sweep, ["rows=rate", "columns=recovery"]))[0].name == "bars-accuracy"
    lone = write_results(tmp_path / "lone", {"recovery": ["mask"]}, lambda labels: right_with(0.5, 1))
    assert drawings(load_results(lone))[0].name == "bars-uar"
    assert drawn(bars, lone).legends == []


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kind", "pie"], ["--kind: unknown kind 'pie'; known: lines, bars, differences, sites"]),
        (["--kind", "differences"], ["table.baseline: expected one with which complete trials can be compared"]),
        (["--kind", "lins"], ["unknown kind 'lins'", "Did you mean 'lines'?"]),
        (
            ["--kind", "lines", "--set", "rows=rate", "--set", "columns=recovery"],
            ["expected numbers as values of 'recovery' for lines, found 'zero'", "--kind bars"],
        ),
        (["--set", "metrics=[macro_auroc]"], ["table.metrics: expected scores that complete trials have (accuracy, "]),
        (["--set", "columns=[rat]"], ["unknown axis 'rat'; known: recovery, rate, seed", "Did you mean 'rate'?"]),
        (["--only", "rate=50%"], ["--only.rate: unknown value '50%'; known: 80%, 30%"]),
        (["--only", "recovery=mask", "--only", "rate=80%", "--only", "seed=3"], ["none of 1 trial is complete"]),
        (["--set", "reference=nowhere.csv"], ["nowhere.csv: the published values cannot be read"]),
        (["--kind", "sites", "--set", "reference=nowhere.csv"], ["nowhere.csv: the published values cannot be read"]),
        (["--out", "{sweep}/sweep.yaml"], ["sweep.yaml: figures cannot be written there"]),
    ],
)
def test_what_does_not_fit_is_one_line(sweep, call, arguments, words):
    refused(call("plot", sweep, *[argument.format(sweep=sweep) for argument in arguments]), *words)
    assert not (sweep / "figures").exists()


@pytest.mark.quick
def test_sweeps_with_nothing_to_show_say_so(tmp_path, call):
    refused(
        call("plot", tmp_path / "nowhere"), "expected a directory written by `fedrecon sweep`, found no such directory"
    )
    empty = write_results(tmp_path / "empty", PARAMETERS, lambda labels: None)
    refused(call("plot", empty), "nothing to show: none of 12 trials is complete; `fedrecon sweep` continues them")
    lone = write_results(tmp_path / "lone", {"recovery": ["mask"]}, lambda labels: right_with(0.5, 1))
    refused(call("plot", lone, "--kind", "lines"), "expected an axis whose values are numbers for lines, found no axis")


@pytest.mark.quick
@pytest.mark.parametrize("classes", [None, [1, 2], [1, "many", 3]])
def test_sites_that_keep_their_counts_are_told(sweep, call, classes):
    site = {"name": "clinic", "samples": 3, "modalities": {"a": 1.0}}
    change_manifest(sweep, sites=[site if classes is None else {**site, "classes": classes}])
    expected = "expected the number of samples of each class at each site"
    refused(call("plot", sweep, "--kind", "sites"), "manifest.json", expected)


@pytest.mark.quick
def test_damaged_files_of_a_trial_are_told_or_left_out(sweep, call):
    results = load_results(sweep)
    trial = results.sweep.directory_of(results.trials.index[0])
    (trial / "config.yaml").write_text("a: 2020-99-99")
    assert call("plot", sweep, "--kind", "sites")[0] == 0
    (trial / "manifest.json").write_text("[" * 100_000)
    expected = "expected the number of samples of each class at each site"
    refused(call("plot", sweep, "--kind", "sites"), "manifest.json", expected)
    assert call("table", sweep)[0] == 0
    (trial / "result.json").write_text("[" * 100_000)  # a cell that is not complete
    assert call("plot", sweep, "--kind", "sites")[0] == 0


@pytest.mark.quick
@pytest.mark.parametrize(
    ("level", "value"), [("0.5", 0.5), ("50%", 0.5), ("-1e-3", -0.001), ("complete", None), ("nan", None), ("%", None)]
)
def test_values_that_are_numbers(level, value):
    assert as_number(level) == (None if value is None else pytest.approx(value))


@pytest.mark.quick
def test_values_that_would_stand_upon_each_other_are_set_apart_by_a_logarithm(tmp_path):
    def scale(*levels):
        axes = {"recovery": ["mask"], "lr": list(levels)}
        folder = write_results(tmp_path / levels[0], axes, lambda labels: right_with(0.5, 1))
        return drawn(lines, folder).axes[0].get_xscale()

    assert scale("0.1", "0.001", "0.0001") == "log"
    assert scale("0.01", "0.03", "0.1", "0.3") == "log"
    assert scale("0.2", "0.5", "0.9") == "linear"
    assert scale("0", "0.001", "0.2") == "linear"


@pytest.mark.quick
def test_methods_are_told_apart_by_more_than_color():
    looks = [look(place) for place in range(56)]
    assert len(set(looks)) == 56
    assert len({(own.marker, own.dashes) for own in looks[:8]}) == 8
    assert len({own.hatch for own in looks[:8]}) == 8
    assert all(to_rgba(own.color)[3] == 1 for own in looks)


@pytest.mark.quick
def test_a_legend_says_what_its_names_are_values_of_unless_they_tell_it():
    assert Legend(["mask", "zero"], ["recovery"], 3.4).title is None
    expected = Legend(["on, off", "off, off"], ["filling", "frozen"], 3.4)
    assert expected.title == "filling, frozen"
    assert (
        expected.height
        > Legend(["mask", "zero"], ["recovery"], 3.4).height
        > Legend(["mask"], ["rate"], 3.4).height
        == 0
    )
    assert short("a very long name of a method", 9) == "a ve…hod"


def test_the_program_starts_without_what_draws():
    asked_for = "import sys, server.cli; print(sorted({'matplotlib', 'pandas'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", asked_for], check=True, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]"

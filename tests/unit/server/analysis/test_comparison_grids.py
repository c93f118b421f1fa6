"""How results are laid out, ranked and compared, as numbers."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from fedrecon_core.errors import DataError
from server.analysis.layout import laid_out
from server.analysis.published import read_published
from server.analysis.ranking import compared as with_differences
from server.analysis.ranking import judged
from server.analysis.results import read_results
from server.sweep.record import read_sweep
from server.sweep.table import Table
from tests.helpers.sweep_results import asked, right_with, write_results

PARAMETERS = {"recovery": ["zero", "mask", "oracle"], "rate": ["0.3", "0.6"], "seed": ["1", "2", "3"]}
SMALL = {**PARAMETERS, "rate": ["0.3"]}
CHANCE = {"zero": 0.2, "mask": 0.5, "oracle": 0.9}


def said(labels):
    """Some methods are right more often than others, and every run a little otherwise."""
    return right_with(CHANCE[labels["recovery"]], int(labels["seed"]) + 10 * (labels["rate"] == "0.6"))


def grids(layout, results, published):
    return with_differences(layout, judged(layout, results, published), results)


def made(folder, predictions=said, axes=PARAMETERS, **table):
    record = read_sweep(write_results(folder / "sweep", axes, predictions))
    return grids(laid_out(Table(**table), record.parameters, ("accuracy",)), read_results(record), [])


@pytest.mark.parametrize(
    ("table", "places"),
    [
        ({}, (("recovery",), ("rate",), ("data",))),
        ({"rows": "rate"}, (("rate",), ("recovery",), ("data",))),
        ({"columns": ["recovery", "data"]}, (("rate",), ("recovery", "data"), ())),
        ({"rows": ["data", "recovery"], "columns": "rate"}, (("data", "recovery"), ("rate",), ())),
    ],
)
def test_parameters_take_the_places_that_are_left(table, places):
    axes = {**PARAMETERS, "data": ["hapt"]}
    found = laid_out(Table(**table), {k: axes[k] for k in ("recovery", "rate", "data", "seed")}, ("uar",))
    assert (found.rows, found.columns, found.sections) == places


def test_a_field_is_the_mean_and_the_deviation_over_its_seeds(tmp_path):
    (grid,) = made(tmp_path)
    assert [(row["recovery"], column["rate"]) for row in grid.rows for column in grid.columns][:2] == [
        ("zero", "0.3"),
        ("zero", "0.6"),
    ]
    runs = [(said({"recovery": "mask", "rate": "0.6", "seed": seed}) == asked()["label"]).mean() for seed in "123"]
    entry = grid.entries[1, 1]
    assert entry.scores == pytest.approx(runs)
    assert entry.mean == pytest.approx(np.mean(runs))
    assert entry.deviation == pytest.approx(np.std(runs, ddof=1))


def test_the_best_and_the_second_are_those_that_contend(tmp_path):
    (grid,) = made(tmp_path)
    assert {key: entry.place for key, entry in grid.entries.items()} == {
        (0, 0): 0, (1, 0): 2, (2, 0): 1, (0, 1): 0, (1, 1): 2, (2, 1): 1,
    }  # fmt: skip
    (grid,) = made(tmp_path / "bounds", bounds={"recovery": "oracle"})
    assert [grid.entries[row, 0].place for row in range(3)] == [2, 1, 0]


def test_of_a_loss_the_smallest_is_best(tmp_path):
    (grid,) = made(tmp_path, metrics="loss")
    assert [grid.entries[row, 0].place for row in range(3)] == [0, 2, 1]


def test_equals_share_a_place(tmp_path):
    (grid,) = made(tmp_path, lambda labels: said({**labels, "recovery": "mask"}))
    assert {entry.place for entry in grid.entries.values()} == {1}


@pytest.mark.parametrize("table", [{"rows": "recovery"}, {"rows": "rate", "columns": "recovery"}, {}])
def test_rivals_are_rivals_wherever_they_stand(tmp_path, table):
    axes = {"rate": PARAMETERS["rate"], "recovery": PARAMETERS["recovery"], "seed": PARAMETERS["seed"]}
    (grid,) = made(tmp_path, axes=axes, baseline={"recovery": "zero"}, **table)
    places = {tuple(sorted(entry.labels.items())): entry.place for entry in grid.entries.values()}
    assert {level: places[("rate", "0.6"), ("recovery", level)] for level in PARAMETERS["recovery"]} == {
        "zero": 0, "mask": 2, "oracle": 1,
    }  # fmt: skip
    found = {
        entry.labels["recovery"]: entry.difference for entry in grid.entries.values() if entry.labels["rate"] == "0.6"
    }
    values = sorted((found["mask"], found["oracle"]), key=lambda one: one.p)
    assert values[0].adjusted == pytest.approx(2 * values[0].p)


def test_a_bound_has_a_difference_and_is_no_rival(tmp_path):
    (grid,) = made(tmp_path, axes=SMALL, baseline={"recovery": "mask"}, bounds={"recovery": "oracle"})
    zero, oracle = grid.entries[0, 0].difference, grid.entries[2, 0].difference
    assert oracle.mean > 0
    assert oracle.adjusted is None
    assert zero.adjusted == zero.p
    assert "Bounds, which are not ranked: recovery=oracle." in grid.remarks


def test_a_p_value_of_one_seed_is_none_and_moves_no_other(tmp_path):
    def lone(labels):
        return None if labels["recovery"] == "zero" and labels["seed"] != "1" else said(labels)

    (grid,) = made(tmp_path, lone, SMALL, baseline={"recovery": "mask"})
    zero, oracle = grid.entries[0, 0].difference, grid.entries[2, 0].difference
    assert (zero.seeds, zero.p, zero.adjusted) == (1, None, None)
    assert zero.interval is not None
    assert oracle.adjusted == oracle.p


def test_one_alone_is_not_ranked(tmp_path):
    (grid,) = made(tmp_path, axes={**PARAMETERS, "recovery": ["mask"]})
    assert [entry.place for entry in grid.entries.values()] == [0, 0]


def test_what_has_no_result_leaves_no_row_and_no_column(tmp_path):
    (grid,) = made(
        tmp_path, lambda labels: None if "zero" in labels.values() or "0.3" in labels.values() else said(labels)
    )
    assert [row["recovery"] for row in grid.rows] == ["mask", "oracle"]
    assert [column["rate"] for column in grid.columns] == ["0.6"]
    assert set(grid.entries) == {(0, 0), (1, 0)}


def test_each_section_has_a_grid_of_its_own(tmp_path):
    axes = {"data": ["a", "b"], **PARAMETERS}
    found = made(tmp_path, axes=axes, rows="recovery", columns="rate", metrics=["uar", "accuracy"])
    assert [(grid.section["data"], grid.metric) for grid in found] == [
        ("a", "uar"), ("a", "accuracy"), ("b", "uar"), ("b", "accuracy"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The grid with differences from `mask`."""
    (grid,) = made(tmp_path_factory.mktemp("compared"), baseline={"recovery": "mask"})
    return grid


def test_differences_are_from_the_baseline_of_the_same_column(compared):
    grid = compared
    assert grid.notes == ()
    assert all((entry.difference is None) == (entry.labels["recovery"] == "mask") for entry in grid.entries.values())
    zero, mask = grid.entries[0, 1], grid.entries[1, 1]
    assert zero.difference.mean == pytest.approx(zero.mean - mask.mean)
    assert zero.difference.interval.low < zero.difference.mean < zero.difference.interval.high < 0
    assert zero.difference.seeds == 3
    assert grid.entries[2, 1].difference.interval.low > 0


def test_holms_family_is_the_rivals_of_a_column(compared):
    for column in (0, 1):
        found = sorted((compared.entries[row, column].difference for row in (0, 2)), key=lambda one: one.p)
        assert 0 < found[0].p < found[1].p
        assert found[0].adjusted == pytest.approx(2 * found[0].p)
        assert found[1].adjusted == pytest.approx(max(found[1].p, 2 * found[0].p))


def test_a_method_is_no_different_from_itself(tmp_path):
    same = {**SMALL, "recovery": ["zero", "mask"]}
    (grid,) = made(tmp_path, lambda labels: said({**labels, "recovery": "mask"}), same, baseline={"recovery": "mask"})
    found = grid.entries[0, 0].difference
    assert (found.mean, found.adjusted) == (0, 1)
    assert (found.interval.low, found.interval.high, found.p) == (0, 0, 1)


def test_seeds_are_paired_as_far_as_both_have_them(tmp_path):
    (grid,) = made(
        tmp_path,
        lambda labels: None if labels["recovery"] == "mask" and labels["seed"] == "2" else said(labels),
        SMALL,
        baseline={"recovery": "mask"},
    )
    found, zero, mask = grid.entries[0, 0].difference, grid.entries[0, 0].scores, grid.entries[1, 0].scores
    assert found.seeds == 2
    assert found.mean == pytest.approx((zero[0] + zero[2] - mask[0] - mask[1]) / 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda trials: (trials / "zero-0.3-1" / "predictions.parquet").unlink(), "predictions.parquet is not there"),
        (
            lambda trials: (trials / "zero-0.3-1" / "predictions.parquet").write_bytes(
                (trials / "oracle-0.3-1" / "predictions.parquet").read_bytes()
            ),
            r"the predictions score otherwise than the result says \(zero-0\.3-1: accuracy 0\.\d+ instead of 0",
        ),
    ],
)
def test_where_predictions_do_not_allow_an_interval_the_difference_stands_with_the_reason(tmp_path, spoil, words):
    record = read_sweep(write_results(tmp_path / "sweep", SMALL, said))
    spoil(tmp_path / "sweep" / "cells")
    layout = laid_out(Table(baseline={"recovery": "mask"}), record.parameters, ("accuracy",))
    (grid,) = grids(layout, read_results(record), [])
    (note,) = grid.notes
    assert note.startswith("No interval for recovery=zero, rate=0.3: ")
    assert re.search(words, note)
    zero, mask, oracle = (grid.entries[row, 0] for row in range(3))
    assert zero.difference.mean == pytest.approx(zero.mean - mask.mean)
    assert zero.difference.interval is None and zero.difference.adjusted is None
    assert oracle.difference.adjusted == oracle.difference.p  # a family of one


def test_trials_with_the_same_fault_are_one_note_without_a_path(tmp_path):
    """A sweep that lies elsewhere has the same table."""
    (tmp_path / "there").mkdir()
    notes = []
    for folder in (tmp_path, tmp_path / "there"):
        record = read_sweep(write_results(folder / "sweep", PARAMETERS, said))
        trials = folder / "sweep" / "cells"
        for spoiled in ("zero-0.3-2", "zero-0.3-3", "oracle-0.6-1"):
            (trials / spoiled / "predictions.parquet").write_bytes(
                (trials / "mask-0.6-2" / "predictions.parquet").read_bytes()
            )
        (trials / "zero-0.6-1" / "predictions.parquet").write_bytes(b"PAR1 no")
        layout = laid_out(Table(baseline={"recovery": "mask"}), record.parameters, ("accuracy",))
        notes.append(grids(layout, read_results(record), [])[0].notes)
    assert notes[0] == notes[1]
    copied, damaged = notes[0]
    assert copied.startswith("No interval for recovery=zero, rate=0.3; recovery=oracle, rate=0.6: the predictions ")
    assert re.findall(r"[(, ]((?:zero|oracle)-\d\.\d-\d): accuracy", copied) == [
        "zero-0.3-2", "zero-0.3-3", "oracle-0.6-1",
    ]  # fmt: skip
    assert damaged.startswith("No interval for recovery=zero, rate=0.6: predictions.parquet is damaged (zero-0.6-1: ")


def test_what_was_asked_of_two_runs_is_compared_seed_by_seed(tmp_path):
    path = write_results(tmp_path / "sweep", SMALL, said)
    for trial in ("zero-0.3-1", "zero-0.3-3"):
        file = path / "cells" / trial / "predictions.parquet"
        rows = pd.read_parquet(file)
        rows.assign(id=rows["id"] + 1).to_parquet(file)
    record = read_sweep(path)
    layout = laid_out(Table(baseline={"recovery": "mask"}), record.parameters, ("accuracy",))
    (grid,) = grids(layout, read_results(record), [])
    told = "zero-0.3-1 beside mask-0.3-1 and zero-0.3-3 beside mask-0.3-3"
    assert grid.notes == (
        f"No interval for recovery=zero, rate=0.3: the two were asked different test samples ({told}).",
    )


def test_samples_that_show_nothing_are_in_no_score(tmp_path):
    path = write_results(tmp_path / "sweep", SMALL, said)
    for file in path.glob("cells/*/predictions.parquet"):
        rows = pd.read_parquet(file)
        unseen = rows.iloc[:7].assign(id=1000 + rows["id"], predicted=0, has_a=False, has_b=False)
        pd.concat([rows, unseen]).to_parquet(file)
    record = read_sweep(path)
    layout = laid_out(Table(baseline={"recovery": "mask"}), record.parameters, ("accuracy",))
    (grid,) = grids(layout, read_results(record), [])
    assert grid.notes == ()
    assert grid.entries[0, 0].difference.interval is not None


def test_a_cluster_that_one_seed_lacks_is_the_same_cluster_in_the_others(tmp_path):
    """What the test set adds must not shrink with the number of seeds because their masks leave others out."""
    same = {"recovery": ["zero", "mask"], "seed": [str(seed) for seed in range(12)]}
    whole = write_results(tmp_path / "whole", same, lambda labels: said({**labels, "seed": "1", "rate": "0.3"}))
    lacking = write_results(tmp_path / "lacking", same, lambda labels: said({**labels, "seed": "1", "rate": "0.3"}))
    for trial in lacking.glob("cells/*"):
        leave_out(trial, int(trial.name.split("-")[1]))
    widths = []
    for path in (whole, lacking):
        record = read_sweep(path)
        layout = laid_out(Table(baseline={"recovery": "mask"}), record.parameters, ("accuracy",))
        (grid,) = grids(layout, read_results(record), [])
        found = grid.entries[0, 0].difference
        assert (found.seeds, found.interval.clusters) == (12, 10)
        widths.append(found.interval.high - found.interval.low)
    assert widths[1] > 0.85 * widths[0]


def leave_out(trial, seed):
    """Have the run be one that was not asked the samples of one group."""
    rows = pd.read_parquet(trial / "predictions.parquet")
    rows = rows[rows["group"] != seed % 10]
    rows.to_parquet(trial / "predictions.parquet")
    result = json.loads((trial / "result.json").read_text())
    result["test"]["accuracy"] = float((rows["label"] == rows["predicted"]).mean())
    (trial / "result.json").write_text(json.dumps(result))


def test_a_score_that_is_none_of_answers_has_no_interval(tmp_path):
    (grid,) = made(tmp_path, metrics="loss", baseline={"recovery": "mask"})
    (note,) = grid.notes
    assert note.count("recovery=") == 4
    assert note.endswith(": loss cannot be told from predictions.")


def write_csv(folder, text):
    path = folder / "published.csv"
    path.write_text(text)
    return path


def test_published_values_stand_beside_the_fields_of_their_labels(tmp_path):
    text = "recovery,rate,metric,value,deviation,source\nmask,0.3,accuracy,50.5,1.5,Table 1\nzero,,uar,20,,\n"
    text += "maks,,uar,2,,\n"
    path = write_csv(tmp_path, text)
    record = read_sweep(write_results(tmp_path / "sweep", PARAMETERS, said))
    layout = laid_out(Table(metrics=["accuracy", "uar"]), record.parameters, ())
    accuracy, uar = grids(layout, read_results(record), read_published(path, record.parameters))
    assert [grid.remarks for grid in (accuracy, uar)] == [
        (), ("1 of 2 published values of this metric stand beside no field.",)
    ]  # fmt: skip
    found = {key: entry.published.value for key, entry in accuracy.entries.items() if entry.published}
    assert found == {(1, 0): pytest.approx(0.505)}
    assert accuracy.entries[1, 0].published.deviation == pytest.approx(0.015)
    assert accuracy.entries[1, 0].published.source == "Table 1"
    assert [key for key, entry in uar.entries.items() if entry.published] == [(0, 0), (0, 1)]


SECTIONED = {"recovery": ["mask"], "rate": ["0.3"], "alpha": ["1", "5"], "seed": ["1"]}


def beside(folder, text, axes):
    """The grids of a sweep beside the published values of ``text``."""
    record = read_sweep(write_results(folder / "sweep", axes, lambda labels: right_with(0.5, 1)))
    layout = laid_out(Table(rows="recovery", columns="rate", metrics=["uar", "accuracy"]), record.parameters, ())
    return grids(layout, read_results(record), read_published(write_csv(folder, text), record.parameters))


def test_a_published_value_that_stands_in_another_section_stands_beside_a_field(tmp_path):
    text = "recovery,alpha,metric,value\nmask,1,uar,50\nmask,5,uar,60\n"
    found = [grid for grid in beside(tmp_path, text, SECTIONED) if grid.metric == "uar"]
    assert [grid.entries[0, 0].published.printed for grid in found] == ["50", "60"]
    assert [grid.remarks for grid in found] == [(), ()]


def test_a_published_value_that_stands_in_no_section_is_told_once(tmp_path):
    text = "recovery,alpha,metric,value\nmask,1,uar,50\nmask,9,uar,60\n"
    remarks = [(grid.metric, remark) for grid in beside(tmp_path, text, SECTIONED) for remark in grid.remarks]
    assert remarks == [("uar", "1 of 2 published values of this metric stand beside no field.")]


@pytest.mark.parametrize("turn", [1, -1], ids=["general first", "specific first"])
def test_of_published_values_the_one_that_names_most_parameters_stands(tmp_path, turn):
    rows = [",,uar,40", "mask,,uar,50", "mask,0.3,uar,60", "zero,,uar,20"][::turn]
    found = beside(tmp_path, "\n".join(["recovery,rate,metric,value", *rows]), PARAMETERS)[0]
    assert {key: entry.published.printed for key, entry in found.entries.items()} == {
        (0, 0): "20", (0, 1): "20", (1, 0): "60", (1, 1): "50", (2, 0): "40", (2, 1): "40",
    }  # fmt: skip


def test_two_published_values_that_name_as_much_of_a_field_are_refused(tmp_path):
    rows = ["recovery,rate,metric,value", "oracle,,uar,1", "mask,,uar,50", ",0.3,accuracy,7", ",0.3,uar,60"]
    found = r"published.csv, lines 2 and 5: both are the uar of recovery=oracle, rate=0.3, and neither names more axes"
    with pytest.raises(DataError, match=found):
        read_published(write_csv(tmp_path, "\n".join(rows)), PARAMETERS)


@pytest.mark.parametrize(
    "rows",
    [
        ["mask,,uar,50", ",0.3,uar,60", "mask,0.3,uar,7"],
        ["maks,,uar,50", ",0.3,uar,60"],
        ["mask,,uar,50", ",0.3,accuracy,60"],
    ],
    ids=["a third names both", "no such level", "another metric"],
)
def test_published_values_of_which_no_field_is_left_to_two_are_no_fault(tmp_path, rows):
    path = write_csv(tmp_path, "\n".join(["recovery,rate,metric,value", *rows]))
    assert len(read_published(path, PARAMETERS)) == len(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recovery,metric\nmask,uar\n", "expected the columns metric and value, found no value"),
        ("recovry,metric,value\n", r"found 'recovry'\. Did you mean 'recovery'\?"),
        ("seed,metric,value\n", "found 'seed'"),
        ("rate,metric,value\n0.3,uar,1\n0.3,uar,2\n", "expected one value of uar for 0.3, found two"),
        ("metric,value\nuar,high\n", "line 2: expected a number, found 'high'"),
        ("metric,value\nuar,nan\n", "line 2: expected a number, found 'nan'"),
        ("metric,value\nuar\n", "line 2: expected as many fields as the header has"),
        ("metric,value\nuar,1,2\n", "line 2: expected as many fields as the header has"),
        ('metric,value\nuar,"1\n', "is no CSV: "),
    ],
)
def test_published_values_that_cannot_be_used_are_told(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read_published(write_csv(tmp_path, text), PARAMETERS)


def test_no_file_of_published_values_is_told(tmp_path):
    with pytest.raises(DataError, match="the published values cannot be read: No such file"):
        read_published(tmp_path / "none.csv", PARAMETERS)

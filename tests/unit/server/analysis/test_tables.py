"""How results are laid out, ranked and compared, as numbers; and the tables in `docs/results/`.

The committed tables are equal to those that today's code makes from the packed sweeps. If some predictions of a sweep
are not committed, differences and their intervals cannot be made again. `table.csv`, which has them unrounded, is
committed for these sweeps only, and differences are not compared.
"""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedrecon_core.errors import DataError
from server.analysis.differences import Differences
from server.analysis.packed import read_predictions
from server.analysis.predictions import Predictions
from server.analysis.published import read_published
from server.analysis.rendering import sheets, to_csv, to_markdown
from server.analysis.results import load_results
from server.analysis.tables import Layout, compare, score_tables
from server.analysis.trials import load_sweep
from server.sweep.spec import Table
from tests.helpers.sweeps import asked, right_with, write_results

PARAMETERS = {"recovery": ["zero", "mask", "oracle"], "rate": ["0.3", "0.6"], "seed": ["1", "2", "3"]}
SMALL = {**PARAMETERS, "rate": ["0.3"]}
CHANCE = {"zero": 0.2, "mask": 0.5, "oracle": 0.9}


def predicted(labels):
    """Some methods are right more often than others, and every run a little otherwise."""
    return right_with(CHANCE[labels["recovery"]], int(labels["seed"]) + 10 * (labels["rate"] == "0.6"))


def tables_of(folder, published=None, **table):
    """The tables of the sweep in ``folder``, with differences; ``published`` is a CSV."""
    sweep = load_sweep(folder)
    layout = Layout.of(Table(**table), sweep.parameters, ("accuracy",))
    values = read_published(published, sweep.parameters) if published else []
    differences = Differences(sweep.complete, Predictions(sweep))
    tables = score_tables(layout, sweep.complete, values)
    return [compare(table, layout, sweep.complete, differences) for table in tables] if layout.baseline else tables


def made(folder, predictions=predicted, axes=PARAMETERS, **table):
    return tables_of(write_results(folder / "sweep", axes, predictions), **table)


def cells_of(table):
    """Position -> cell."""
    return {key: table.cell(key) for key in table.keys}


def scores_of(table, key, metric="accuracy"):
    return table.trials.loc[list(table.cell(key)["trials"])][f"metrics.{metric}"].tolist()


def has_interval(cell):
    return bool(pd.notna(cell["difference_low"]))


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
    found = Layout.of(Table(**table), {k: axes[k] for k in ("recovery", "rate", "data", "seed")}, ("uar",))
    assert (found.rows, found.columns, found.sections) == places


def test_a_field_is_the_mean_and_the_deviation_over_its_seeds(tmp_path):
    (table,) = made(tmp_path)
    assert [(row["recovery"], column["rate"]) for row in table.rows for column in table.columns][:2] == [
        ("zero", "0.3"),
        ("zero", "0.6"),
    ]
    runs = [(predicted({"recovery": "mask", "rate": "0.6", "seed": seed}) == asked()["label"]).mean() for seed in "123"]
    cell = table.cell((1, 1))
    assert scores_of(table, (1, 1)) == pytest.approx(runs)
    assert cell["mean"] == pytest.approx(np.mean(runs))
    assert cell["deviation"] == pytest.approx(np.std(runs, ddof=1))


def test_the_best_and_the_second_are_those_that_contend(tmp_path):
    (table,) = made(tmp_path)
    assert table.cells["place"].to_dict() == {
        (0, 0): 0, (1, 0): 2, (2, 0): 1, (0, 1): 0, (1, 1): 2, (2, 1): 1,
    }  # fmt: skip
    (table,) = made(tmp_path / "bounds", bounds={"recovery": "oracle"})
    assert [table.cell((row, 0))["place"] for row in range(3)] == [2, 1, 0]


def test_of_a_loss_the_smallest_is_best(tmp_path):
    (table,) = made(tmp_path, metrics="loss")
    assert [table.cell((row, 0))["place"] for row in range(3)] == [0, 2, 1]


def test_equals_share_a_place(tmp_path):
    (table,) = made(tmp_path, lambda labels: predicted({**labels, "recovery": "mask"}))
    assert set(table.cells["place"]) == {1}


@pytest.mark.parametrize("section", [{"rows": "recovery"}, {"rows": "rate", "columns": "recovery"}, {}])
def test_rivals_are_rivals_wherever_they_stand(tmp_path, section):
    axes = {"rate": PARAMETERS["rate"], "recovery": PARAMETERS["recovery"], "seed": PARAMETERS["seed"]}
    (table,) = made(tmp_path, axes=axes, baseline={"recovery": "zero"}, **section)
    places = {tuple(sorted(table.labels(key).items())): cell["place"] for key, cell in cells_of(table).items()}
    assert {level: places[("rate", "0.6"), ("recovery", level)] for level in PARAMETERS["recovery"]} == {
        "zero": 0, "mask": 2, "oracle": 1,
    }  # fmt: skip
    labels = {key: table.labels(key) for key in table.keys}
    found = {labels[key]["recovery"]: table.cell(key) for key in labels if labels[key]["rate"] == "0.6"}
    values = sorted((found["mask"], found["oracle"]), key=lambda one: one["p"])
    assert values[0]["p_holm"] == pytest.approx(2 * values[0]["p"])


def test_a_bound_has_a_difference_and_is_no_rival(tmp_path):
    (table,) = made(tmp_path, axes=SMALL, baseline={"recovery": "mask"}, bounds={"recovery": "oracle"})
    zero, oracle = table.cell((0, 0)), table.cell((2, 0))
    assert oracle["difference"] > 0
    assert pd.isna(oracle["p_holm"])
    assert zero["p_holm"] == zero["p"]
    assert "Bounds, which are not ranked: recovery=oracle." in table.remarks


def test_a_p_value_of_one_seed_is_none_and_moves_no_other(tmp_path):
    def lone(labels):
        return None if labels["recovery"] == "zero" and labels["seed"] != "1" else predicted(labels)

    (table,) = made(tmp_path, lone, SMALL, baseline={"recovery": "mask"})
    zero, oracle = table.cell((0, 0)), table.cell((2, 0))
    assert (zero["difference_seeds"], pd.isna(zero["p"]), pd.isna(zero["p_holm"])) == (1, True, True)
    assert has_interval(zero)
    assert oracle["p_holm"] == oracle["p"]


def test_one_alone_is_not_ranked(tmp_path):
    (table,) = made(tmp_path, axes={**PARAMETERS, "recovery": ["mask"]})
    assert table.cells["place"].tolist() == [0, 0]


def test_what_has_no_result_leaves_no_row_and_no_column(tmp_path):
    (table,) = made(
        tmp_path, lambda labels: None if "zero" in labels.values() or "0.3" in labels.values() else predicted(labels)
    )
    assert [row["recovery"] for row in table.rows] == ["mask", "oracle"]
    assert [column["rate"] for column in table.columns] == ["0.6"]
    assert set(table.keys) == {(0, 0), (1, 0)}


def test_each_section_has_a_grid_of_its_own(tmp_path):
    axes = {"data": ["a", "b"], **PARAMETERS}
    found = made(tmp_path, axes=axes, rows="recovery", columns="rate", metrics=["uar", "accuracy"])
    assert [(table.section["data"], table.metric) for table in found] == [
        ("a", "uar"), ("a", "accuracy"), ("b", "uar"), ("b", "accuracy"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The table with differences from `mask`."""
    (table,) = made(tmp_path_factory.mktemp("compared"), baseline={"recovery": "mask"})
    return table


def test_differences_are_from_the_baseline_of_the_same_column(compared):
    table = compared
    assert table.notes == ()
    baselines = {key for key in table.keys if table.labels(key)["recovery"] == "mask"}
    assert {key for key, cell in cells_of(table).items() if pd.isna(cell["difference"])} == baselines
    zero, mask = table.cell((0, 1)), table.cell((1, 1))
    assert zero["difference"] == pytest.approx(zero["mean"] - mask["mean"])
    assert zero["difference_low"] < zero["difference"] < zero["difference_high"] < 0
    assert zero["difference_seeds"] == 3
    assert table.cell((2, 1))["difference_low"] > 0


def test_holms_family_is_the_rivals_of_a_column(compared):
    for column in (0, 1):
        found = sorted((compared.cell((row, column)) for row in (0, 2)), key=lambda one: one["p"])
        (p, holm), (other_p, other_holm) = ((one["p"], one["p_holm"]) for one in found)
        assert 0 < p < other_p
        assert holm == pytest.approx(2 * p)
        assert other_holm == pytest.approx(max(other_p, 2 * p))


def test_a_method_is_no_different_from_itself(tmp_path):
    same = {**SMALL, "recovery": ["zero", "mask"]}
    (table,) = made(
        tmp_path, lambda labels: predicted({**labels, "recovery": "mask"}), same, baseline={"recovery": "mask"}
    )
    found = table.cell((0, 0))
    assert (found["difference"], found["p_holm"]) == (0, 1)
    assert (found["difference_low"], found["difference_high"], found["p"]) == (0, 0, 1)


def test_seeds_are_paired_as_far_as_both_have_them(tmp_path):
    (table,) = made(
        tmp_path,
        lambda labels: None if labels["recovery"] == "mask" and labels["seed"] == "2" else predicted(labels),
        SMALL,
        baseline={"recovery": "mask"},
    )
    found, zero, mask = table.cell((0, 0)), scores_of(table, (0, 0)), scores_of(table, (1, 0))
    assert found["difference_seeds"] == 2
    assert found["difference"] == pytest.approx((zero[0] + zero[2] - mask[0] - mask[1]) / 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda trials: (trials / "zero-0.3-1" / "predictions.parquet").unlink(), "no predictions.parquet"),
        (
            lambda trials: (trials / "zero-0.3-1" / "predictions.parquet").write_bytes(
                (trials / "oracle-0.3-1" / "predictions.parquet").read_bytes()
            ),
            r"the scores of the predictions differ from those in result.json \(zero-0\.3-1: accuracy 0\.\d+ instead",
        ),
    ],
)
def test_where_predictions_do_not_allow_an_interval_the_difference_stands_with_the_reason(tmp_path, spoil, words):
    path = write_results(tmp_path / "sweep", SMALL, predicted)
    spoil(path / "cells")
    (table,) = tables_of(path, baseline={"recovery": "mask"})
    (note,) = table.notes
    assert note.startswith("No interval for recovery=zero, rate=0.3: ")
    assert re.search(words, note)
    zero, mask, oracle = (table.cell((row, 0)) for row in range(3))
    assert zero["difference"] == pytest.approx(zero["mean"] - mask["mean"])
    assert not has_interval(zero) and pd.isna(zero["p_holm"])
    assert oracle["p_holm"] == oracle["p"]  # a family of one


def test_trials_with_the_same_fault_are_one_note_without_a_path(tmp_path):
    """A sweep that lies elsewhere has the same table."""
    (tmp_path / "there").mkdir()
    notes = []
    for folder in (tmp_path, tmp_path / "there"):
        path = write_results(folder / "sweep", PARAMETERS, predicted)
        trials = folder / "sweep" / "cells"
        for spoiled in ("zero-0.3-2", "zero-0.3-3", "oracle-0.6-1"):
            (trials / spoiled / "predictions.parquet").write_bytes(
                (trials / "mask-0.6-2" / "predictions.parquet").read_bytes()
            )
        (trials / "zero-0.6-1" / "predictions.parquet").write_bytes(b"PAR1 no")
        notes.append(tables_of(path, baseline={"recovery": "mask"})[0].notes)
    assert notes[0] == notes[1]
    copied, damaged = notes[0]
    assert copied.startswith(
        "No interval for recovery=zero, rate=0.3; recovery=oracle, rate=0.6: the scores of the predictions "
    )
    assert re.findall(r"[(, ]((?:zero|oracle)-\d\.\d-\d): accuracy", copied) == [
        "zero-0.3-2", "zero-0.3-3", "oracle-0.6-1",
    ]  # fmt: skip
    assert damaged.startswith("No interval for recovery=zero, rate=0.6: predictions.parquet is damaged (zero-0.6-1: ")


def test_what_was_asked_of_two_runs_is_compared_seed_by_seed(tmp_path):
    path = write_results(tmp_path / "sweep", SMALL, predicted)
    for trial in ("zero-0.3-1", "zero-0.3-3"):
        file = path / "cells" / trial / "predictions.parquet"
        rows = pd.read_parquet(file)
        rows.assign(id=rows["id"] + 1).to_parquet(file)
    (table,) = tables_of(path, baseline={"recovery": "mask"})
    expected = "zero-0.3-1 against mask-0.3-1 and zero-0.3-3 against mask-0.3-3"
    assert table.notes == (f"No interval for recovery=zero, rate=0.3: their test samples differ ({expected}).",)


def test_samples_that_show_nothing_are_in_no_score(tmp_path):
    path = write_results(tmp_path / "sweep", SMALL, predicted)
    for file in path.glob("cells/*/predictions.parquet"):
        rows = pd.read_parquet(file)
        unseen = rows.iloc[:7].assign(id=1000 + rows["id"], predicted=0, has_a=False, has_b=False)
        pd.concat([rows, unseen]).to_parquet(file)
    (table,) = tables_of(path, baseline={"recovery": "mask"})
    assert table.notes == ()
    assert has_interval(table.cell((0, 0)))


def test_a_cluster_that_one_seed_lacks_is_the_same_cluster_in_the_others(tmp_path):
    """What the test set adds must not shrink with the number of seeds because their masks leave others out."""
    same = {"recovery": ["zero", "mask"], "seed": [str(seed) for seed in range(12)]}
    whole = write_results(tmp_path / "whole", same, lambda labels: predicted({**labels, "seed": "1", "rate": "0.3"}))
    lacking = write_results(
        tmp_path / "lacking", same, lambda labels: predicted({**labels, "seed": "1", "rate": "0.3"})
    )
    for trial in lacking.glob("cells/*"):
        leave_out(trial, int(trial.name.split("-")[1]))
    widths = []
    for path in (whole, lacking):
        (table,) = tables_of(path, baseline={"recovery": "mask"})
        found = table.cell((0, 0))
        assert (found["difference_seeds"], found["test_groups"]) == (12, 10)
        widths.append(found["difference_high"] - found["difference_low"])
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
    (table,) = made(tmp_path, metrics="loss", baseline={"recovery": "mask"})
    (note,) = table.notes
    assert note.count("recovery=") == 4
    assert note.endswith(": loss cannot be computed from predictions.")


def write_csv(folder, text):
    path = folder / "published.csv"
    path.write_text(text)
    return path


def test_published_values_stand_beside_the_fields_of_their_labels(tmp_path):
    text = "recovery,rate,metric,value,deviation,source\nmask,0.3,accuracy,50.5,1.5,Table 1\nzero,,uar,20,,\n"
    text += "maks,,uar,2,,\n"
    path = write_csv(tmp_path, text)
    folder = write_results(tmp_path / "sweep", PARAMETERS, predicted)
    accuracy, uar = tables_of(folder, path, metrics=["accuracy", "uar"])
    assert [table.remarks for table in (accuracy, uar)] == [
        (), ("1 of 2 published values of this metric have no cell in these tables.",)
    ]  # fmt: skip
    assert accuracy.cells["published"].dropna().to_dict() == {(1, 0): pytest.approx(0.505)}
    assert accuracy.cell((1, 0))["published_deviation"] == pytest.approx(0.015)
    assert accuracy.cell((1, 0))["published_source"] == "Table 1"
    assert list(uar.cells["published"].dropna().index) == [(0, 0), (0, 1)]


SECTIONED = {"recovery": ["mask"], "rate": ["0.3"], "alpha": ["1", "5"], "seed": ["1"]}


def beside(folder, text, axes):
    """The grids of a sweep beside the published values of ``text``."""
    path = write_results(folder / "sweep", axes, lambda labels: right_with(0.5, 1))
    published = write_csv(folder, text)
    return tables_of(path, published, rows="recovery", columns="rate", metrics=["uar", "accuracy"])


def test_a_published_value_that_stands_in_another_section_stands_beside_a_field(tmp_path):
    text = "recovery,alpha,metric,value\nmask,1,uar,50\nmask,5,uar,60\n"
    found = [table for table in beside(tmp_path, text, SECTIONED) if table.metric == "uar"]
    assert [table.cell((0, 0))["published_text"] for table in found] == ["50", "60"]
    assert [table.remarks for table in found] == [(), ()]


def test_a_published_value_that_stands_in_no_section_is_told_once(tmp_path):
    text = "recovery,alpha,metric,value\nmask,1,uar,50\nmask,9,uar,60\n"
    remarks = [(table.metric, remark) for table in beside(tmp_path, text, SECTIONED) for remark in table.remarks]
    assert remarks == [("uar", "1 of 2 published values of this metric have no cell in these tables.")]


@pytest.mark.parametrize("turn", [1, -1], ids=["general first", "specific first"])
def test_of_published_values_the_one_that_names_most_parameters_stands(tmp_path, turn):
    rows = [",,uar,40", "mask,,uar,50", "mask,0.3,uar,60", "zero,,uar,20"][::turn]
    found = beside(tmp_path, "\n".join(["recovery,rate,metric,value", *rows]), PARAMETERS)[0]
    assert found.cells["published_text"].to_dict() == {
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
        ('metric,value\nuar,"1\n', "is not a valid CSV file: "),
    ],
)
def test_published_values_that_cannot_be_used_are_told(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read_published(write_csv(tmp_path, text), PARAMETERS)


def test_no_file_of_published_values_is_told(tmp_path):
    with pytest.raises(DataError, match="the published values cannot be read: No such file"):
        read_published(tmp_path / "none.csv", PARAMETERS)


# --- the committed tables of docs/results ---------------------------------------------------------------------------


RESULTS = Path(__file__).resolve().parents[4] / "docs" / "results"
SWEEPS = sorted(path.parent for path in RESULTS.glob("*/tables"))
OF_PREDICTIONS = {"difference", "difference_low", "difference_high", "p", "p_holm"}


def is_whole(sweep):
    """Whether the predictions of all trials are committed."""
    return set(load_results(sweep).trials.index) <= set(read_predictions(sweep))


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.name)
def test_scores_and_costs_of_committed_tables_are_todays(sweep):
    results, whole = load_results(sweep), is_whole(sweep)
    tables = results.compared_tables() if whole else results.tables()
    text = (sweep / "tables" / "table.md").read_text(encoding="utf-8")
    assert [sheet.title for sheet in sheets(tables) if to_markdown([sheet]) not in text] == []
    committed = sweep / "tables" / "table.csv"
    assert committed.exists() != whole
    if not whole:
        lines = csv.DictReader(committed.open(encoding="utf-8"))
        todays = csv.DictReader(io.StringIO(to_csv(tables)))
        assert [scores_and_costs(line) for line in lines] == [scores_and_costs(line) for line in todays]


def scores_and_costs(line):
    return {name: value for name, value in line.items() if name not in OF_PREDICTIONS}


def test_tables_of_a_whole_sweep_are_the_same_bytes():
    sweep = RESULTS / "pairs"
    assert is_whole(sweep)
    results = load_results(sweep)
    made = to_markdown(sheets(results.compared_tables()), results.notes())
    assert (sweep / "tables" / "table.md").read_bytes() == made.encode()


def test_there_are_committed_tables():
    assert SWEEPS

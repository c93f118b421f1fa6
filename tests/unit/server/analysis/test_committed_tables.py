"""The tables in `docs/results/` are what today's code makes of the packed sweeps there, marks of rank and remarks
included. If some predictions of a sweep are not committed, differences and their intervals are not compared."""

import csv
import io
from pathlib import Path

import pytest

from server.analysis.packed import read_predictions
from server.analysis.rendering import sheets, to_csv, to_latex, to_markdown
from server.analysis.results import load_results

RESULTS = Path(__file__).resolve().parents[4] / "docs" / "results"
SWEEPS = sorted(path.parent for path in RESULTS.glob("*/tables"))
OF_PREDICTIONS = {"difference", "difference_low", "difference_high", "p", "p_holm"}


def is_whole(sweep):
    """Whether the predictions of all trials are there."""
    return set(load_results(sweep).trials.index) <= set(read_predictions(sweep))


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.name)
def test_scores_and_costs_of_committed_tables_are_todays(sweep):
    results, whole = load_results(sweep), is_whole(sweep)
    tables = results.compared_tables() if whole else results.tables()
    text = (sweep / "tables" / "table.md").read_text(encoding="utf-8")
    assert [sheet.title for sheet in sheets(tables) if to_markdown([sheet]) not in text] == []
    lines = csv.DictReader((sweep / "tables" / "table.csv").open(encoding="utf-8"))
    todays = csv.DictReader(io.StringIO(to_csv(tables)))
    left_out = set() if whole else OF_PREDICTIONS
    assert [without(left_out, line) for line in lines] == [without(left_out, line) for line in todays]


def without(names, line):
    return {name: value for name, value in line.items() if name not in names}


def test_tables_of_a_whole_sweep_are_the_same_bytes():
    sweep = RESULTS / "pairs"
    assert is_whole(sweep)
    results = load_results(sweep)
    tables, notes = results.compared_tables(), results.notes()
    made = {
        "table.md": to_markdown(sheets(tables), notes),
        "table.csv": to_csv(tables),
        "table.tex": to_latex(sheets(tables), notes),
    }
    assert {name for name, text in made.items() if (sweep / "tables" / name).read_bytes() != text.encode()} == set()


def test_there_are_committed_tables():
    assert SWEEPS

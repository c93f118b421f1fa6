"""The tables in `docs/results/` are what today's code makes of the cells beside them, with marks of rank and remarks.
Of a sweep some of whose predictions are not committed, differences and their intervals are taken as they stand."""

import csv
import io
from pathlib import Path

import pytest

from server.analysis.rendering import sheets, to_csv, to_markdown
from server.analysis.results import load_results

RESULTS = Path(__file__).resolve().parents[4] / "docs" / "results"
SWEEPS = sorted(path.parent for path in RESULTS.glob("*/tables"))
OF_PREDICTIONS = {"difference", "difference_low", "difference_high", "p", "p_holm"}


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.name)
def test_scores_and_costs_of_committed_tables_are_todays(sweep):
    whole = all((cell / "predictions.parquet").is_file() for cell in sweep.glob("cells/*"))
    tables = load_results(sweep).compared_tables() if whole else load_results(sweep).tables()
    told = (sweep / "tables" / "table.md").read_text(encoding="utf-8")
    assert [sheet.title for sheet in sheets(tables) if to_markdown([sheet]) not in told] == []
    lines = csv.DictReader((sweep / "tables" / "table.csv").open(encoding="utf-8"))
    todays = csv.DictReader(io.StringIO(to_csv(tables)))
    left_out = set() if whole else OF_PREDICTIONS
    assert [without(left_out, line) for line in lines] == [without(left_out, line) for line in todays]


def without(names, line):
    return {name: value for name, value in line.items() if name not in names}


def test_there_are_committed_tables():
    assert SWEEPS

"""``fedrecon pack`` and ``unpack``: packed results show the same tables and report, nothing is lost on the way
back, and damaged files are refused in one line."""

import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from server.analysis.packed import read_predictions
from server.analysis.trials import load_curves, load_sweep, load_trials
from tests.helpers.runs import caller, refused
from tests.helpers.sweeps import right_with, write_results, write_sweep

pytestmark = pytest.mark.quick
PARAMETERS = {"recovery": ["zero", "mask"], "rate": ["0.3", "0.6"], "seed": ["1", "2"]}
TABLE = {"rows": ["recovery"], "columns": ["rate"], "metrics": ["accuracy", "loss"], "baseline": {"recovery": "mask"}}
PUBLISHED = "recovery,rate,metric,value\nmask,0.3,accuracy,51.25\n"
LINES = [
    {"round": 1, "split": "train", "n": 9, "loss": 0.5, "train_seconds": 0.25},
    {"round": 1, "split": "validation", "n": 4, "loss": 0.75, "accuracy": 0.5},
    {"round": 2, "split": "train", "n": 9, "loss_mapping": 2.0, "loss": 0.25, "train_seconds": 0.125},
    {"round": 2, "split": "validation", "n": 4, "loss": 0.5, "accuracy": 0.75},
]


def predicted(labels):
    return right_with({"zero": 0.2, "mask": 0.5}[labels["recovery"]], int(labels["seed"]))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep with published values and learning curves, whose last trial failed, and one is not there."""
    folder = write_results(
        tmp_path_factory.mktemp("written") / "sweep",
        PARAMETERS,
        lambda labels: None if [*labels.values()] == ["mask", "0.6", "1"] else predicted(labels),
        **TABLE,
        reference="reference.csv",
    )
    (folder / "reference.csv").write_text(PUBLISHED)
    for path in folder.glob("cells/*"):
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    failed = folder / "cells" / "mask-0.6-2"
    (failed / "result.json").write_text('{"status": "failed", "error": "no site replied"}')
    return folder


@pytest.fixture
def sweep(written, tmp_path):
    return shutil.copytree(written, tmp_path / "sweep")


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def packed(sweep, call, tmp_path):
    code, out, _ = call("pack", sweep, tmp_path / "packed")
    assert code == 0
    names = ["sweep.yaml", "trials.parquet", "curves.parquet", "predictions.parquet"]
    assert out.splitlines() == [str(tmp_path / "packed" / name) for name in names]
    return tmp_path / "packed"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_trials_and_curves_are_the_same_frames(sweep, packed):
    own, other = load_trials(sweep), load_trials(packed)
    assert list(other.index) == list(own.index)
    pd.testing.assert_frame_equal(other[own.columns], own, check_dtype=False)
    assert other.loc["mask-0.6-2", ["status", "error"]].tolist() == ["failed", "no site replied"]
    assert other.at["mask-0.6-1", "status"] == "missing"
    own, other = load_curves(sweep), load_curves(packed)
    pd.testing.assert_frame_equal(other[own.columns].reset_index(drop=True), own, check_dtype=False)


@pytest.mark.parametrize("options", [[], ["--shown", "2"], ["--only", "rate=0.3"], ["--set", "metrics=uar"]])
def test_tables_are_the_same_bytes(sweep, packed, call, tmp_path, options):
    first = call("table", sweep, *options, "--out", tmp_path / "out")
    made = files(tmp_path / "out")
    assert call("table", packed, *options, "--out", tmp_path / "out") == first
    assert first[0] == 0 and files(tmp_path / "out") == made


def test_the_report_has_the_same_tables_and_curves(sweep, packed, call):
    pages = []
    for folder in (sweep, packed):
        assert call("report", folder)[0] == 0
        pages.append((folder / "report.html").read_text(encoding="utf-8"))
    for part in ("scores", "learning", "costs"):
        own, other = (page.split(f'id="{part}"')[1].split("</section>")[0] for page in pages)
        assert own == other and len(own) > 500


def test_unpacking_gives_every_file_back(sweep, packed, call, tmp_path):
    code, out, _ = call("unpack", packed, tmp_path / "again")
    assert (code, out) == (0, f"7 run directories in {tmp_path / 'again'}\n")
    own, other = files(sweep), files(tmp_path / "again")
    assert set(other) == set(own)
    for name, content in other.items():
        if name.endswith(".parquet"):
            schemas = [
                pq.read_table(folder / name).replace_schema_metadata(None) for folder in (sweep, tmp_path / "again")
            ]
            assert schemas[0].equals(schemas[1])
        elif name != "sweep.yaml":
            assert content == own[name], name
    own, other = (yaml.safe_load(found["sweep.yaml"]) for found in (own, other))
    for trial in other["cells"]:
        assert trial.pop("config_sha256") is None  # the sweep of this test has none
    assert own == other
    assert "expected a new or empty folder" in call("unpack", packed, tmp_path / "again")[2]


def test_packing_again_replaces_its_files_and_leaves_others(sweep, packed, call):
    (packed / "tables").mkdir()
    (packed / "tables" / "table.md").write_text("mine")
    code, _, _ = call("pack", sweep, packed, "--no-predictions")
    assert code == 0
    assert not (packed / "predictions.parquet").exists()
    assert (packed / "tables" / "table.md").read_text() == "mine"
    assert "no predictions.parquet" in call("table", packed)[1]


def test_predictions_of_some_trials_alone(sweep, call, tmp_path):
    call("pack", sweep, tmp_path / "packed", "--predictions-of", "recovery=zero", "--predictions-of", "seed=1")
    assert set(read_predictions(tmp_path / "packed")) == {"zero-0.3-1", "zero-0.6-1"}
    refused(call("pack", sweep, tmp_path / "other", "--predictions-of", "recovery=zer"), "unknown value 'zer'")
    assert not (tmp_path / "other").exists()


def test_predictions_of_data_with_other_modalities_keep_their_own_columns(sweep, call, tmp_path):
    path = sweep / "cells" / "zero-0.3-1" / "predictions.parquet"
    pd.read_parquet(path).rename(columns={"has_a": "has_phone"}).to_parquet(path)
    call("pack", sweep, tmp_path / "packed")
    found = read_predictions(tmp_path / "packed")
    own, other = (found[f"zero-0.3-{seed}"].column_names for seed in "12")
    assert {name for name in own if name.startswith("has_")} == {"has_phone", "has_b"}
    assert [name for name in other if name.startswith("has_")] == ["has_a", "has_b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pack {sweep} {sweep}", "expected a new or empty folder, or a packed sweep; choose another folder"),
        ("pack {packed} {new}", "expected the directory of a sweep, found a packed sweep"),
        ("pack {nowhere} {new}", "expected a directory written by `fedrecon sweep`, found no such directory"),
        ("pack {sweep} {new} --no-predictions --predictions-of seed=1", "--no-predictions exclude each other"),
        ("unpack {sweep} {new}", "expected a packed sweep, found the directory of a sweep"),
        ("sweep {packed}/sweep.yaml", "expected the config of a sweep, found the list of trials"),
        ("sweep {config} --out {packed}", "expected the directory of a sweep, found a packed sweep"),
    ],
)
def test_what_cannot_be_packed_is_one_line(sweep, packed, call, tmp_path, arguments, words):
    config = write_sweep(tmp_path / "config")
    places = {
        "sweep": sweep,
        "packed": packed,
        "new": tmp_path / "new",
        "nowhere": tmp_path / "nowhere",
        "config": config,
    }
    refused(call(*arguments.format(**places).split()), words)
    assert not (tmp_path / "new").exists()


def test_a_packed_sweep_of_another_name_is_not_replaced(sweep, packed, call):
    raw = yaml.safe_load((sweep / "sweep.yaml").read_text())
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({**raw, "name": "other"}))
    refused(call("pack", sweep, packed), "holds the sweep 'toy', and this one is 'other'")


def with_column(name, values):
    def change(table):
        return table.set_column(table.column_names.index(name), name, pa.array(values(table[name].to_pylist())))

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda table: table.drop_columns("status"), "expected a column 'status' of text, found none"),
        (lambda table: table.drop_columns("bytes"), "expected a column 'bytes' of numbers, found none"),
        (lambda table: table.drop_columns("params.rate"), "expected a column 'params.rate' of text, found none"),
        (with_column("bytes", lambda old: ["1"] * len(old)), "expected numbers in the column 'bytes', found string"),
        (with_column("params.rate", lambda old: [0.3] * len(old)), "expected text in the column 'params.rate'"),
        (with_column("metrics.accuracy", lambda old: ["x"] * len(old)), "expected numbers in the column 'metrics.acc"),
        (with_column("protocol_faults", lambda old: ["x"] * len(old)), "expected lists of text in the column"),
        (
            with_column("trial", lambda old: [old[0]] * len(old)),
            "expected one row per trial, found two of 'zero-0.3-1",
        ),
        (
            with_column("trial", lambda old: ["../x", *old[1:]]),
            "expected names of folders in the column 'trial',",
        ),
        (
            with_column("trial", lambda old: [None, *old[1:]]),
            "expected names of folders in the column",
        ),
        (with_column("status", lambda old: ["done", *old[1:]]), "in the column 'status', found 'done'"),
        (
            with_column("params.rate", lambda old: ["0.7", *old[1:]]),
            "expected one of 0.3 and 0.6 in the column 'p",
        ),
        (with_column("bytes", lambda old: [float("inf"), *old[1:]]), "expected finite numbers, found infinite ones"),
    ],
)
def test_a_damaged_table_of_trials_is_one_line(packed, call, spoil, words):
    path = packed / "trials.parquet"
    pq.write_table(spoil(pq.read_table(path)), path)
    for command in (["table", packed], ["plot", packed], ["unpack", packed, packed.parent / "new"]):
        refused(call(*command), f"{path}: ", words, "or pack the sweep again")


@pytest.mark.parametrize("content", [b"", b"PAR1 no PAR1", b"PAR1"])
@pytest.mark.parametrize("name", ["trials.parquet", "predictions.parquet"])
def test_a_file_that_is_no_parquet_is_one_line(packed, call, name, content):
    (packed / name).write_bytes(content)
    refused(call("table", packed), f"{packed / name} cannot be read (")


def test_damaged_curves_cost_the_report_nothing_else_and_are_told(packed, call):
    (packed / "curves.parquet").write_bytes(b"PAR1")
    refused(call("report", packed), f"{packed / 'curves.parquet'} cannot be read (")
    assert call("table", packed)[0] == 0
    (packed / "curves.parquet").unlink()
    assert call("report", packed)[0] == 0


def test_lines_that_are_not_numbers_are_left_out_of_curves(sweep):
    lines = ['{"round": 1, "split": "validation", "accuracy": 0.5, "note": "x", "ok": true}', '{"round": "x"}', "{"]
    (sweep / "cells" / "zero-0.3-1" / "metrics.jsonl").write_text("\n".join(lines))
    curves = load_sweep(sweep).curves
    own = curves[curves["trial"] == "zero-0.3-1"].dropna(axis="columns")
    assert own.to_dict("records") == [{"trial": "zero-0.3-1", "round": 1, "split": "validation", "accuracy": 0.5}]

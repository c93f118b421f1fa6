"""Runs on data with several labels per sample: every recovery, both places of evaluation, simulated and deployed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sklearn.metrics import f1_score, roc_auc_score

from fedrecon_core.errors import ConfigError, DataError, RunError
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, RECOVERIES, discover
from server.commands.coherence import measure
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.report.run import final_table
from server.runs.record import read_run
from server.runs.setup import create_run
from server.training import reconstruction_images as run_pictures
from server.training.evaluation import selected
from tests.helpers.contract_support import restored
from tests.helpers.multilabel import MULTILABEL_CLASSES, ToyMultilabel, multilabel_settings
from tests.helpers.runs import deploy, lines, node_configs, result, split_sites, without_clock, write
from tests.helpers.runs import run as run_config

discover((*CORE_PACKAGES, "strategies"))

SAMPLE = {"level": "sample", "rate": 0.5}
MISSING = {"train": SAMPLE, "validation": SAMPLE, "test": SAMPLE}
SCORES = {"accuracy", "macro_auroc", "macro_auroc_error", "macro_auroc_classes", "macro_f1"}


def settings(recovery="mask", **sections):
    return multilabel_settings(recovery, missing=MISSING, **sections)


@pytest.mark.parametrize("recovery", RECOVERIES.names())
def test_every_recovery_runs_and_scores(recovery, tmp_path):
    run = run_config(tmp_path, settings(recovery))
    found = lines(run, "metrics.jsonl")
    assert [line["split"] for line in found] == ["train", "validation", "train", "validation", "test"]
    for line in found:
        assert math.isfinite(line["loss"]) and 0 < line["loss"] < 3
    for line in (*found[1::2], found[-1], result(run)["test"]):
        assert set(line) >= SCORES and "uar" not in line
        assert all(0 <= line[name] <= 1 for name in SCORES - {"macro_auroc_classes"})
        assert line["macro_auroc_error"] == 0 and line["macro_auroc_classes"] == 3
    assert found[-1]["n"] == 24


@pytest.fixture(scope="module")
def server_run(tmp_path_factory) -> Path:
    return run_config(tmp_path_factory.mktemp("server"), settings(rounds=3, local={"task": {"lr": 0.02, "batch": 8}}))


def test_server_and_sites_give_the_same_scores(server_run, tmp_path):
    changed = settings(rounds=3, local={"task": {"lr": 0.02, "batch": 8}}, evaluate={"where": "sites"})
    at_sites = run_config(tmp_path, changed)
    assert result(at_sites)["parameters_sha256"] == result(server_run)["parameters_sha256"]
    for mine, theirs in zip(lines(server_run, "metrics.jsonl"), lines(at_sites, "metrics.jsonl"), strict=True):
        mine, theirs = without_clock(mine), without_clock(theirs)
        theirs.pop("sites", None)
        assert mine.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-6)
        area, error = mine.pop("macro_auroc", None), mine.pop("macro_auroc_error", None)
        if area is not None:
            assert error == 0 and abs(theirs.pop("macro_auroc") - area) <= theirs.pop("macro_auroc_error") + 1e-12
        assert mine == theirs


def test_best_round_is_never_chosen_by_an_undefined_metric():
    line = {"round": 3, "split": "validation", "n": 5, "accuracy": 0.5, "macro_auroc_classes": 0}
    assert selected(line, "accuracy") == 0.5
    with pytest.raises(RunError, match=r"^evaluate\.select: round 3 has no macro_auroc: .* found none; .*$") as caught:
        selected(line, "macro_auroc")
    assert "\n" not in str(caught.value)


class Unlabelled(ToyMultilabel):
    """The toy without any sample of any class."""

    def load(self, params, root, seed):
        dataset = super().load(params, root, seed)
        return replace(dataset, labels=np.zeros_like(dataset.labels))


@pytest.mark.parametrize("where", ["server", "sites"])
def test_run_fails_with_a_message_if_auroc_is_undefined(where, tmp_path):
    changed = settings(rounds=1, data={"name": "unlabelled"}, evaluate={"where": where})
    with restored(DATASETS):
        DATASETS.register("unlabelled")(Unlabelled)
        with pytest.raises(RunError, match=r"^evaluate\.select: round 1 has no macro_auroc: "):
            run_config(tmp_path, changed)


def test_scores_are_those_of_the_predictions(server_run):
    table, test = pq.read_table(server_run / "predictions.parquet"), result(server_run)["test"]
    rows = {name: np.zeros((len(table), len(MULTILABEL_CLASSES))) for name in ("label", "predicted")}
    for name, filled in rows.items():
        for row, positions in enumerate(table[name].to_pylist()):
            filled[row, positions] = 1
    chances = np.stack([table[f"probability_{name}"].to_numpy() for name in MULTILABEL_CLASSES], axis=1)
    assert test["accuracy"] == pytest.approx((rows["label"] == rows["predicted"]).mean())
    assert test["macro_f1"] == pytest.approx(
        f1_score(rows["label"], rows["predicted"], average="macro", zero_division=0)
    )
    assert test["macro_auroc"] == pytest.approx(roc_auc_score(rows["label"], chances), abs=1e-12)
    expected = -(rows["label"] * np.log(chances) + (1 - rows["label"]) * np.log(1 - chances)).mean()
    assert test["loss"] == pytest.approx(expected, rel=1e-5)


def test_it_learns(server_run):
    assert result(server_run)["test"]["macro_auroc"] > 0.7, "chance is 0.5"


def test_report_and_table_show_the_available_scores(server_run):
    page = (server_run / "report.html").read_text(encoding="utf-8")
    for text in ("Test Macro-AUROC", "Test Macro-F1", "Test Accuracy", "over all classes"):
        assert text in page
    assert "UAR" not in page
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(final_table(read_run(server_run)))
    shown = console.export_text()
    assert "Test macro-AUROC" in shown and "Test macro-F1" in shown and "UAR" not in shown


def test_the_manifest_counts_each_class(server_run):
    manifest = json.loads((server_run / "manifest.json").read_text())
    counts = np.array([site["classes"] for site in manifest["sites"]])
    assert counts.shape == (4, 3)
    assert (counts.sum(axis=0) > 0).all() and (counts <= [[site["samples"]] for site in manifest["sites"]]).all()


def test_coherence_is_refused_with_a_message(tmp_path):
    run = run_config(tmp_path, settings("fedrecon", rounds=1))
    with pytest.raises(DataError, match="coherence needs one class per sample; those of toy_multilabel"):
        measure(run, sample=False)


class TwoPictures(ToyMultilabel):
    """The toy with a second picture."""

    def load(self, params, root, seed):
        dataset = super().load(params, root, seed)
        first, steps = dataset.spec.modalities[0], dataset.spec.modalities[2]
        modalities = (first, first.model_copy(update={"name": "negative"}), steps)
        return replace(
            dataset,
            spec=dataset.spec.model_copy(update={"name": "two_labelled_pictures", "modalities": modalities}),
            arrays={**dataset.arrays, "negative": 1 - dataset.arrays["picture"]},
            rows=dict.fromkeys(("picture", "negative", "steps"), dataset.rows["picture"]),
        )


def test_the_picture_grid_has_a_row_for_each_class(tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr(run_pictures, "save_grid", lambda path, columns, rows, grid: grids.append((rows, grid)))
    with restored(DATASETS):
        DATASETS.register("two_labelled_pictures")(TwoPictures)
        run_config(tmp_path, settings("fedrecon", rounds=1, data={"name": "two_labelled_pictures"}))
    [(rows, grid)] = grids
    assert rows == list(MULTILABEL_CLASSES)
    assert len(grid) == 3


@pytest.mark.parametrize("where", ["server", "sites"])
def test_samples_without_any_modality_are_scored_separately(where, tmp_path):
    heavy = {"level": "sample", "rate": 0.8}
    missing = {"train": SAMPLE, "validation": heavy, "test": heavy, "empty": "allow"}
    run = run_config(tmp_path, multilabel_settings(missing=missing, evaluate={"where": where}, rounds=1))
    test = result(run)["test"]
    assert test["empty_n"] > 0 and test["n"] + test["empty_n"] == 24
    assert 0 <= test["empty_accuracy"] <= 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Site folders of the toy and federation.yaml."""
    return split_sites(write(tmp_path_factory.mktemp("split"), settings(sites={"count": 3})))


def deployed(folders: Path, out: Path, *changes: str):
    changes = ("engine.name=deployment", "sites.wait=1", "sites.min=1", *changes)
    return create_run(folders / "federation.yaml", changes, out=out)


def test_deployment_over_folders_equals_the_simulation_over_them(folders, tmp_path):
    simulated = create_run(folders / "federation.yaml", out=tmp_path / "simulated")
    InProcess().run(Job.of(simulated))
    prepared = deployed(folders, tmp_path / "deployed")
    deploy(prepared, node_configs(folders, tmp_path / "state"))
    mine, theirs = result(tmp_path / "simulated"), result(tmp_path / "deployed")
    assert mine["parameters_sha256"] == theirs["parameters_sha256"]
    assert {name: mine["test"][name] for name in SCORES} == {name: theirs["test"][name] for name in SCORES}


def test_deployment_fails_in_round_0_if_a_metric_does_not_apply(folders, tmp_path):
    prepared = deployed(folders, tmp_path / "deployed", "evaluate.select=uar")
    with pytest.raises(ConfigError, match=r"evaluate\.select: expected a metric of multilabel data .* found uar"):
        deploy(prepared, node_configs(folders, tmp_path / "state"))
    assert "found uar" in result(tmp_path / "deployed")["error"]
    assert not (tmp_path / "deployed" / "metrics.jsonl").exists()

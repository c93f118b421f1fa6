"""Absent data never reach a model: over every data set and every recovery, a run ends with the same bytes whether what
the masks hide is there, is NaN, or does not exist at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.simulated
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import BoolArray, Dataset, forget_datasets
from fedrecon_core.errors import RunError
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, RECOVERIES, discover
from server.prepare import load_config
from tests.contract.test_datasets import root_of
from tests.toys import runs

discover((*CORE_PACKAGES, "strategies"))
SETS = [name for name in DATASETS.names() if "toy" not in name]
HONEST = [name for name, cls in RECOVERIES.items() if not cls.reads_absent]
KEYS = {"polydigits": {"tuples": 1, "modalities": 2}}
"""Data set -> keys that make it small."""
SMALL = {"epochs": 1, "batch": 32}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """Where the toy of each data set lies."""
    return {name: root_of(name, tmp_path_factory.mktemp(name)) for name in SETS}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No data set of another run is kept open."""
    forget()
    yield
    forget()


def forget() -> None:
    forget_datasets()
    client.simulated._open.clear()


def settings(name: str, root: Path | None, recovery: str, level: dict[str, Any]) -> dict[str, Any]:
    """One round of two sites of a data set under masks of ``level``."""
    mapping = {"mapping": {"hidden": [8]}, "latent": 4, "warmup_rounds": 0} if recovery == "fedrecon" else {}
    loader: Any = DATASETS.get(name)
    return runs.settings(
        name="absent",
        rounds=1,
        device="cpu",
        data={"name": name, **({} if root is None else {"root": str(root)}), **KEYS.get(name, {})},
        sites={"count": len(loader().load(loader.Params(name=name, root=str(root)), root, 0).sites or (0, 1))},
        missing={"train": level, "validation": level, "test": level},
        recovery={"name": recovery, **mapping},
        local={"generator": SMALL, "mapping": SMALL, "task": SMALL},
        evaluate={"select": "macro_f1"},
        task={"width": 8, "hidden": 8, "fusion": {"name": "attention", "heads": 2, "hidden": 8}},
        modalities={
            "image": {"extractor": [4, 4]},
            "sequence": {"generator": [4, 4], "extractor": [4, 4]},
            "vector": {"generator": [8], "extractor": [8]},
        },
    )


def shown_in(dataset: Dataset, config: Any) -> BoolArray:
    """bool [N, M]: what some mask of some split shows."""
    allocation = allocate(dataset, config)
    shown = np.zeros((len(dataset.ids), len(dataset.spec.names)), dtype=bool)
    for shares in (allocation.train, allocation.validation, allocation.test):
        for share in shares.values():
            np.logical_or.at(shown, share.samples, share.present)
    assert (dataset.exists() & ~shown).any()
    return shown


def pieces(dataset: Dataset, name: str) -> list[np.ndarray]:
    """The rows of a modality, each an array of its own."""
    array, borders = np.array(dataset.arrays[name]), dataset.offsets.get(name)
    return list(array) if borders is None else np.split(array, borders[1:-1])


def with_nan(dataset: Dataset, shown: BoolArray) -> Dataset:
    """NaN in every hidden value."""
    arrays = {}
    for column, name in enumerate(dataset.spec.names):
        rows = pieces(dataset, name)
        for row in dataset.rows[name][dataset.exists()[:, column] & ~shown[:, column]]:
            rows[row] = np.full_like(rows[row], np.nan)
        arrays[name] = np.concatenate(rows) if name in dataset.offsets else np.stack(rows)
    return replace(dataset, arrays=arrays)


def without(dataset: Dataset, shown: BoolArray) -> Dataset:
    """No row of a hidden value."""
    arrays, offsets, places = {}, {}, {}
    for column, name in enumerate(dataset.spec.names):
        rows, kept = pieces(dataset, name), np.flatnonzero(shown[:, column])
        chosen = [rows[row] for row in dataset.rows[name][kept]]
        arrays[name] = np.concatenate(chosen) if name in dataset.offsets else np.stack(chosen)
        if name in dataset.offsets:
            offsets[name] = np.concatenate([[0], np.cumsum([len(row) for row in chosen])]).astype(np.int64)
        places[name] = np.full(len(dataset.ids), -1, dtype=np.int64)
        places[name][kept] = np.arange(len(kept))
    return replace(dataset, arrays=arrays, offsets=offsets, rows=places)


def changed(monkeypatch: pytest.MonkeyPatch, name: str, config: Any, change: Any) -> None:
    """From now on the data set loses what no mask of ``config`` shows."""
    loader = DATASETS.get(name)
    original = loader.load  # type: ignore[attr-defined]

    def load(self: Any, params: Any, root: Any, seed: int) -> Dataset:
        dataset = original(self, params, root, seed)
        return change(dataset, shown_in(dataset, config))

    monkeypatch.setattr(loader, "load", load)
    forget()


HALF = {"level": "sample", "rate": 0.5}
NONE = {"level": "none"}


@pytest.mark.parametrize("recovery", HONEST)
@pytest.mark.parametrize("name", SETS)
def test_what_is_hidden_may_be_nan_or_not_exist(
    name: str, recovery: str, roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = runs.run(tmp_path / "clean", settings(name, roots[name], recovery, HALF))
    config, expected = load_config(clean / "config.yaml"), runs.outcome(clean)
    with monkeypatch.context() as patch:
        changed(patch, name, config, with_nan)
        nan = runs.run(tmp_path / "nan", settings(name, roots[name], recovery, HALF))
    with monkeypatch.context() as patch:
        changed(patch, name, config, without)
        deleted = runs.run(tmp_path / "deleted", settings(name, roots[name], recovery, NONE))
    assert runs.outcome(nan) == expected
    assert unwired(runs.outcome(deleted)) == unwired(expected)


def unwired(outcome: dict[str, Any]) -> dict[str, Any]:
    """Without the size of whole messages, in which the config stands as text."""
    return {**outcome, "result": {key: value for key, value in outcome["result"].items() if not key.startswith("wire")}}


@pytest.mark.parametrize("name", SETS)
def test_the_bound_that_reads_what_is_hidden_dies_of_it(
    name: str, roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = runs.run(tmp_path / "clean", settings(name, roots[name], "oracle", HALF))
    changed(monkeypatch, name, load_config(clean / "config.yaml"), with_nan)
    with pytest.raises(RunError, match="holds NaN"):
        runs.run(tmp_path / "nan", settings(name, roots[name], "oracle", HALF))

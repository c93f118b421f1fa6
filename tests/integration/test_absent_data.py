"""Absent data never reach a model: over every data set, each of its protocols and every recovery, a run ends with the
same bytes whether what the masks hide is there, is NaN, or does not exist at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrecon_core.data import allocation
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, load_dataset
from fedrecon_core.datasets import prepared
from fedrecon_core.errors import ConfigError, RunError
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, RECOVERIES, discover
from server.runs.setup import load_config
from tests.contract.test_datasets import PREPARED, PROTOCOLS, root_of
from tests.helpers import runs

discover((*CORE_PACKAGES, "strategies"))
CASES = [case for case in PROTOCOLS if "toy" not in case[0]]
SETS = [name for name, protocol in CASES if protocol == "default"]
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
    runs.forget()
    yield
    runs.forget()


def settings(
    name: str, root: Path | None, recovery: str, level: dict[str, Any], protocol: str = "default"
) -> dict[str, Any]:
    """One round of two sites of a data set under masks of ``level``; in training they hide whole sites where the
    protocol takes no others."""
    mapping = {"mapping": {"hidden": [8]}, "latent": 4, "warmup_rounds": 0} if recovery == "fedrecon" else {}
    loader: Any = DATASETS.get(name)
    keys = KEYS.get(name, {}) | ({} if protocol == "default" else {"protocol": protocol})
    dataset = loader().load(loader.Params(name=name, root=str(root), **keys), root, 0)
    train = level
    if dataset.normalised_by_natural_id:
        keys |= {"partition": "natural"}
        train = by_site(dataset) if level.get("rate") else level
    return runs.settings(
        name="absent",
        rounds=1,
        device="cpu",
        data={"name": name, **({} if root is None else {"root": str(root)}), **keys},
        sites={"count": len(dataset.sites or (0, 1))},
        missing={"train": train, "validation": level, "test": level},
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


def by_site(dataset: Dataset) -> dict[str, Any]:
    """Masks of two sites, of which one lacks what is made of all values of a natural id."""
    rest = [name for name in dataset.spec.names if name not in dataset.normalised_by_natural_id]
    return {"level": "profile", "profile": [{"sites": 1, "modalities": m} for m in (list(dataset.spec.names), rest)]}


def shown_in(dataset: Dataset, config: Any) -> BoolArray:
    """bool [N, M]: what some mask of some split shows."""
    allocation = allocate(dataset, config)
    shown = np.zeros((len(dataset.ids), len(dataset.spec.names)), dtype=bool)
    for shares in (allocation.train, allocation.validation, allocation.test):
        for share in shares.values():
            np.logical_or.at(shown, share.samples, share.present)
    hidden = dataset.exists() & ~shown
    assert hidden.any()
    assert all(
        hidden[dataset.members(0), dataset.spec.names.index(name)].any() for name in dataset.normalised_by_natural_id
    )
    return shown


def hidden_rows(dataset: Dataset, shown: BoolArray) -> dict[str, IntArray]:
    """Modality -> the rows that stand in no shown value."""
    found = {}
    for column, name in enumerate(dataset.spec.names):
        count = len(dataset.offsets[name]) - 1 if name in dataset.offsets else len(dataset.arrays[name])
        found[name] = np.setdiff1d(np.arange(count), dataset.rows[name][shown[:, column]])
    return found


def pieces(dataset: Dataset, name: str) -> list[np.ndarray]:
    """The rows of a modality, each an array of its own."""
    array, borders = np.array(dataset.arrays[name]), dataset.offsets.get(name)
    return list(array) if borders is None else np.split(array, borders[1:-1])


def with_nan(dataset: Dataset, hidden: dict[str, IntArray]) -> Dataset:
    """NaN in every hidden row."""
    arrays = {}
    for name in dataset.spec.names:
        rows = pieces(dataset, name)
        for row in hidden[name].tolist():
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
    runs.forget()


def poisoned(monkeypatch: pytest.MonkeyPatch, name: str, config: Any) -> None:
    """From now on what no mask of ``config`` shows is NaN; in a prepared folder it is so before a protocol makes
    something of it."""
    if name not in PREPARED:
        changed(monkeypatch, name, config, lambda dataset, shown: with_nan(dataset, hidden_rows(dataset, shown)))
        return
    original, dataset = prepared.open_whole, load_dataset(config)
    hidden = hidden_rows(dataset, shown_in(dataset, config))
    monkeypatch.setattr(prepared, "open_whole", lambda root: with_nan(original(root), hidden))
    runs.forget()


HALF = {"level": "sample", "rate": 0.5}
NONE = {"level": "none"}


@pytest.mark.parametrize("recovery", HONEST)
@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_what_is_hidden_may_be_nan_or_not_exist(
    name: str, protocol: str, recovery: str, roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, none = (settings(name, roots[name], recovery, level, protocol) for level in (HALF, NONE))
    clean = runs.run(tmp_path / "clean", half)
    config, expected = load_config(clean / "config.yaml"), runs.outcome(clean)
    with monkeypatch.context() as patch:
        poisoned(patch, name, config)
        nan = runs.run(tmp_path / "nan", half)
    with monkeypatch.context() as patch:
        changed(patch, name, config, without)
        deleted = runs.run(tmp_path / "deleted", none)
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
    poisoned(monkeypatch, name, load_config(clean / "config.yaml"))
    with pytest.raises(RunError, match="holds NaN"):
        runs.run(tmp_path / "nan", settings(name, roots[name], "oracle", HALF))


def test_a_protocol_that_makes_shown_values_of_hidden_ones_would_be_seen(
    roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of samples hide a part of what a speaker of ``meld`` is normalised by; they are refused for that."""
    keys = settings("meld", roots["meld"], "mask", HALF, "fedmultimodal")
    keys["missing"]["train"] = HALF
    with pytest.raises(ConfigError, match=r"missing.train.level: expected none or site"):
        runs.run(tmp_path / "refused", keys)
    monkeypatch.setattr(allocation, "refuse_partly_hidden", lambda dataset, config: None)
    clean = runs.run(tmp_path / "clean", keys)
    poisoned(monkeypatch, "meld", load_config(clean / "config.yaml"))
    with pytest.raises(RunError, match="NaN"):
        runs.run(tmp_path / "nan", keys)

"""Data in whole runs: absent values never influence a result, the zero filling of the benchmark, and real data sets.

Over every data set, each of its protocols and every recovery, a run gives the same bytes whether values hidden by the
masks are present, are NaN, or do not exist. Real data, complete and in one place, must be classified at least as well
as by a logistic regression on a few statistics; validation chooses the round, and the run itself reads test once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedrecon_core.data import allocation
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, load_dataset
from fedrecon_core.datasets import prepared
from fedrecon_core.datasets.npz import read_npz
from fedrecon_core.errors import ConfigError, RunError
from fedrecon_core.recovery.base import recovery_for
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, RECOVERIES, discover
from fedrecon_core.state import EXTRACTORS, HEAD_GROUP, State, extractor_group, read_group
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import RunSetup, create_run, load_config
from server.training.checkpoints import load_newest
from tests.contract.test_datasets import PREPARED, PROTOCOLS, root_of
from tests.helpers import raw_polymnist, runs
from tests.helpers.raw_uci_har import root

discover((*CORE_PACKAGES, "strategies"))
CASES = [case for case in PROTOCOLS if "toy" not in case[0]]
SETS = [name for name, protocol in CASES if protocol == "default"]
HONEST = [name for name, cls in RECOVERIES.items() if not cls.reads_absent]
KEYS = {"polydigits": {"tuples": 1, "modalities": 2}}
"""Data set -> keys that make it small."""
SMALL = {"epochs": 1, "batch": 32}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """The root folder of a small sample of each data set."""
    return {name: root_of(name, tmp_path_factory.mktemp(name)) for name in SETS}


@pytest.fixture
def fresh() -> Iterator[None]:
    """Close all data sets before and after the test."""
    runs.forget()
    yield
    runs.forget()


def settings(
    name: str, root: Path | None, recovery: str, level: dict[str, Any], protocol: str = "default"
) -> dict[str, Any]:
    """One round with two sites of a data set under masks of ``level``. Training masks are per site if the protocol
    refuses masks per sample."""
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
    """Masks of two sites; the second lacks the modalities that are normalised by natural id."""
    rest = [name for name in dataset.spec.names if name not in dataset.normalised_by_natural_id]
    return {"level": "profile", "profile": [{"sites": 1, "modalities": m} for m in (list(dataset.spec.names), rest)]}


def shown_in(dataset: Dataset, config: Any) -> BoolArray:
    """bool [N, M]: values that any mask of any split shows."""
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
    """Modality -> rows that belong to no shown value."""
    found = {}
    for column, name in enumerate(dataset.spec.names):
        count = len(dataset.offsets[name]) - 1 if name in dataset.offsets else len(dataset.arrays[name])
        found[name] = np.setdiff1d(np.arange(count), dataset.rows[name][shown[:, column]])
    return found


def pieces(dataset: Dataset, name: str) -> list[np.ndarray]:
    """The rows of a modality as separate arrays."""
    array, borders = np.array(dataset.arrays[name]), dataset.offsets.get(name)
    return list(array) if borders is None else np.split(array, borders[1:-1])


def with_nan(dataset: Dataset, hidden: dict[str, IntArray]) -> Dataset:
    """``dataset`` with NaN in every hidden row."""
    arrays = {}
    for name in dataset.spec.names:
        rows = pieces(dataset, name)
        for row in hidden[name].tolist():
            rows[row] = np.full_like(rows[row], np.nan)
        arrays[name] = np.concatenate(rows) if name in dataset.offsets else np.stack(rows)
    return replace(dataset, arrays=arrays)


def without(dataset: Dataset, shown: BoolArray) -> Dataset:
    """``dataset`` without the rows of hidden values."""
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
    """Patch the data set: from now on ``change`` applies to values that no mask of ``config`` shows."""
    loader = DATASETS.get(name)
    original = loader.load  # type: ignore[attr-defined]

    def load(self: Any, params: Any, root: Any, seed: int) -> Dataset:
        dataset = original(self, params, root, seed)
        return change(dataset, shown_in(dataset, config))

    monkeypatch.setattr(loader, "load", load)
    runs.forget()


def poisoned(monkeypatch: pytest.MonkeyPatch, name: str, config: Any) -> None:
    """Patch the data set: values that no mask of ``config`` shows are NaN, in a prepared folder before the protocol
    computes anything from them."""
    if name not in PREPARED:
        changed(monkeypatch, name, config, lambda dataset, shown: with_nan(dataset, hidden_rows(dataset, shown)))
        return
    original, dataset = prepared.open_whole, load_dataset(config)
    hidden = hidden_rows(dataset, shown_in(dataset, config))
    monkeypatch.setattr(prepared, "open_whole", lambda root: with_nan(original(root), hidden))
    runs.forget()


HALF = {"level": "sample", "rate": 0.5}
NONE = {"level": "none"}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("recovery", HONEST)
@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_result_is_unchanged_if_hidden_values_are_nan_or_do_not_exist(
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
    """``outcome`` without the size of whole messages, which contain the config as text."""
    return {**outcome, "result": {key: value for key, value in outcome["result"].items() if not key.startswith("wire")}}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", SETS)
def test_oracle_fails_if_hidden_values_are_nan(
    name: str, roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = runs.run(tmp_path / "clean", settings(name, roots[name], "oracle", HALF))
    poisoned(monkeypatch, name, load_config(clean / "config.yaml"))
    with pytest.raises(RunError, match="contains NaN"):
        runs.run(tmp_path / "nan", settings(name, roots[name], "oracle", HALF))


@pytest.mark.usefixtures("fresh")
def test_protocol_that_leaks_hidden_values_is_detected(
    roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks per sample hide some of the values by which a speaker of ``meld`` is normalised, so they are refused."""
    keys = settings("meld", roots["meld"], "mask", HALF, "fedmultimodal")
    keys["missing"]["train"] = HALF
    with pytest.raises(ConfigError, match=r"missing.train.level: expected none or site"):
        runs.run(tmp_path / "refused", keys)
    monkeypatch.setattr(allocation, "refuse_partly_hidden", lambda dataset, config: None)
    clean = runs.run(tmp_path / "clean", keys)
    poisoned(monkeypatch, "meld", load_config(clean / "config.yaml"))
    with pytest.raises(RunError, match="NaN"):
        runs.run(tmp_path / "nan", keys)


# --- zeros that the fusion does not see -------------------------------------------------------------------------------

BENCHMARK_CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fedmultimodal"
BENCHMARK_SITES, SITTING_OUT = 12, 1
"""Two sites for each training subject; with this seed one site has neither sensor."""
ACC, GYRO = extractor_group("acc"), extractor_group("gyro")
SMALL_BENCHMARK = (
    f"sites.count={BENCHMARK_SITES}",
    "sites.fraction=1",
    "data.partition.shards=2",
    "data.partition.least=1",
    "missing.train.rate=0.5",
    "modalities.sequence.extractor={convolutions: [4, 6, 8], dropout: 0}",
    "task={width: 8, hidden: 8, dropout: 0, fusion: {name: attention, heads: 2, hidden: 16, bias: true}}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunSetup]:
    """A function that runs the config of a strategy with additional settings and returns the completed run."""
    data = root(tmp_path_factory.mktemp("uci_har"))

    def run(strategy: str, *settings: str) -> RunSetup:
        out = tmp_path_factory.mktemp(strategy) / "run"
        config = BENCHMARK_CONFIGS / f"uci_har_{strategy}.yaml"
        prepared = create_run(config, [f"data.root={data}", *SMALL_BENCHMARK, *settings], out=out)
        InProcess().run(Job.of(prepared))
        return prepared

    return run


def lacking(line: dict[str, Any], group: str) -> bool:
    """Whether a site sent ``group`` without having trained it on any real sample."""
    return bool(line["counts"][group] > 0 == line["real"][group])


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_no_honest_site_is_rejected_if_most_sites_lack_a_sensor(
    strategy: str, trained: Callable[..., RunSetup]
) -> None:
    """Weight decay alone hardly changes an extractor. If such updates set the limit (``updates.limit``), updates of
    sites with the sensor would be rejected."""
    prepared = trained(strategy, "rounds=3")
    directory, config = prepared.directory.path, prepared.config
    assert config.recovery.attended is False and config.missing.empty == "skip"  # type: ignore[attr-defined]
    assert config.updates.limit is not None and config.local.task.weight_decay > 0
    lines = runs.lines(directory, "sites.jsonl")
    assert [line["status"] for line in lines] == ["ok"] * 3 * (BENCHMARK_SITES - SITTING_OUT)
    first = lines[: BENCHMARK_SITES - SITTING_OUT]
    assert sum(lacking(line, GYRO) for line in first) > len(first) / 2 > sum(lacking(line, ACC) for line in first) > 0
    for line in lines:
        assert {ACC, GYRO, HEAD_GROUP} <= set(line["groups_up"]), "masked zeros are averaged as well"
        assert not (lacking(line, ACC) and lacking(line, GYRO))
    assert runs.result(directory)["status"] == "completed"


def state_of(prepared: RunSetup) -> dict[str, State]:
    """The global groups after the last round."""
    found = load_newest(prepared.directory.path / "checkpoints")
    assert found is not None
    return found.groups


def test_zeros_do_not_change_the_head_and_slow_down_extractors(trained: Callable[..., RunSetup]) -> None:
    """After one round the head equals that of ``mask``; the change of an extractor is scaled by the share of real
    samples."""
    prepared = trained("fedavg", "rounds=1")
    unseen, mask = state_of(prepared), state_of(trained("fedavg", "rounds=1", "recovery=mask"))
    start = recovery_for(prepared.config, load_dataset(prepared.config).spec).build()
    lines = runs.lines(prepared.directory.path, "sites.jsonl")
    for group, state in unseen.items():
        counts, real = (sum(line[key][group] for line in lines) for key in ("counts", "real"))
        assert (real < counts) == group.startswith(EXTRACTORS)
        before = read_group(start[group])
        for name, tensor in state.items():
            expected = torch.lerp(before[name], mask[group][name], real / counts)
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
        assert max(float((mask[group][name] - tensor).abs().max()) for name, tensor in before.items()) > 1e-4


# --- real data, complete and in one place -----------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CONFIGS = ROOT / "configs" / "real"
LIMIT = 15 * 60
"""Seconds that a run may take, with one worker of one thread."""


def there(name: str) -> Path:
    """The path of a file of the real data; skip the test if it does not exist."""
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not at ../shared/data")
    return DATA / name


def centralised(config: str, root: Path, out: Path) -> dict[str, Any]:
    """``result.json`` of a reference, trained on the data at ``root``."""
    prepared = create_run(CONFIGS / config, [f"data.root={root}"], out)
    assert prepared.config.sites.count == 1 and prepared.config.engine.workers == 1
    assert prepared.config.recovery.name == "mask" and prepared.config.strategy.name == "fedavg"
    assert all(getattr(prepared.config.missing, split).level == "none" for split in ("train", "validation", "test"))
    InProcess().run(Job.of(prepared))
    result = runs.result(out)
    print(f"\n{config}: {result['test']}, round {result['best_round']}, {result['wall_seconds']:.0f} s")
    return result


def statistics(values: np.ndarray) -> np.ndarray:
    """[N, 6 D] of windows [N, T, D]: per channel mean, deviation, least, largest, energy, mean absolute difference."""
    step = np.abs(np.diff(values, axis=1)).mean(axis=1)
    energy = (values**2).mean(axis=1)
    return np.concatenate(
        [values.mean(axis=1), values.std(axis=1), values.min(axis=1), values.max(axis=1), energy, step], axis=1
    )


def logistic_regression(dataset: Dataset) -> float:
    """Test accuracy of a logistic regression on the standardised statistics, with scikit-learn's default strength.
    Nothing is selected, so it may train on the validation windows too."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = np.concatenate([statistics(np.asarray(dataset.arrays[name])) for name in dataset.spec.names], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    train, test = np.flatnonzero(dataset.split < 2), dataset.members(2)
    return float(model.fit(inputs[train], dataset.labels[train]).score(inputs[test], dataset.labels[test]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "description", "file"),
    [
        ("hapt.yaml", CONFIGS / "hapt_npz.yaml", "hapt_ucihar.npz"),
        ("spsw.yaml", CONFIGS.parent / "har" / "spsw_npz.yaml", "spsw_har.npz"),
    ],
)
def test_motion_accuracy_is_within_a_point_of_logistic_regression(config, description, file, tmp_path):
    shutil.copy(there(file), tmp_path / file)
    shutil.copy(description, tmp_path / description.name)
    simple = logistic_regression(read_npz(tmp_path / description.name))
    result = centralised(config, tmp_path / description.name, tmp_path / "run")
    print(f"logistic regression: {simple:.4f}")
    assert result["test"]["accuracy"] >= simple - 0.01
    assert result["wall_seconds"] < LIMIT


@pytest.mark.slow
def test_digits_on_five_backgrounds_reach_99_percent_accuracy(tmp_path):
    with np.load(there("mnist_polymnist_ingredients.npz")) as found:
        raw_polymnist.write_mnist(tmp_path / "raw", (found["Xtr"], found["ytr"]), (found["Xte"], found["yte"]))
        raw_polymnist.write_backgrounds(tmp_path / "raw", [found[f"bg{m}"] for m in range(5)])
    folder = raw_polymnist.prepared(tmp_path / "raw", tmp_path / "set", train_tuples=6000, validation=5000)
    result = centralised("polymnist.yaml", folder, tmp_path / "run")
    assert result["test"]["n"] == 10_000
    assert result["test"]["accuracy"] >= 0.99
    assert result["wall_seconds"] < LIMIT

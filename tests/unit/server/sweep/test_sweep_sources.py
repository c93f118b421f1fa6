"""The data of a sweep are seen before its first cell starts, and what lacks is told with the cells that need it."""

from pathlib import Path

import pytest

import fedrecon_core.data.dataset as dataset
from fedrecon_core.errors import DataError
from server.sweep.faults import Faults
from server.sweep.sources import _fault, check_sources
from server.sweep.spec import read_definition
from server.sweep.trials import matrix
from tests.helpers.sweeps import write_sweep

pytestmark = pytest.mark.quick


def trials_of(folder: Path, **axes):
    path = write_sweep(folder, axes={"recovery": ["mask", "zero"], **axes, "seed": [0, 1]})
    return matrix(read_definition(path), folder)


def test_a_source_that_cannot_be_opened_is_told_once_with_the_trials_that_need_it(tmp_path):
    (tmp_path / "raw").mkdir()
    levels = {"digits": {}, "har": {"data": {"name": "uci_har"}}, "meld": {"data": {"name": "meld", "root": "raw"}}}
    with pytest.raises(DataError) as raised:
        check_sources(trials_of(tmp_path, data=levels))
    told = str(raised.value)
    assert told.startswith("the 4 cells with data=har: data.root: expected a folder prepared for 'uci_har', found none")
    assert f"; the 4 cells with data=meld: data.root: expected a folder prepared for 'meld', found {tmp_path}" in told
    assert "data=digits" not in told and told.count("expected a folder") == 2 and "\n" not in told
    assert told.endswith("No cell was started; --only axis=level runs those without a fault")


def test_a_root_that_does_not_exist_is_told_of_every_trial_to_run_and_matters_to_no_other(tmp_path):
    levels = {name: {"data": {"name": "folder", "root": name}, "name": name} for name in ("there", "far")}
    trials = trials_of(tmp_path, data={"here": {}, **levels})
    with pytest.raises(DataError) as raised:
        check_sources(trials)
    words = [
        f"the 4 cells with data={name}: data.root: expected an existing folder or file, found no {tmp_path / name} ("
        for name in levels
    ]
    assert all(word in str(raised.value) for word in words)
    check_sources([trial for trial in trials if trial.labels["data"] == "here"])


def test_each_source_is_opened_once_and_none_is_kept(tmp_path):
    dataset.forget_datasets()
    opened = []
    loader = dataset.DATASETS.get("polydigits")
    load = loader.load

    def counted(self, params, root, seed):
        opened.append(params.modalities)
        return load(self, params, root, seed)

    trials = trials_of(tmp_path, data={"two": {}, "three": {"data.modalities": 3}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "load", counted)
        check_sources(trials)
    assert sorted(opened) == [2, 3]
    assert dataset._load.cache_info().currsize == 0


FAULTS = {
    "evaluate.select": ("macro_auroc", "evaluate.select: expected a metric of multiclass data"),
    "missing.train.rate": ({"m7": 0.5}, "missing.train.rate: expected modalities of the data set (m0, m1), found 'm7'"),
    "sites.count": (100_000, "sites.count: expected at most "),
}
"""A key of a run's config -> a value that only the data can show to be wrong, and what is told."""


@pytest.mark.parametrize("key", FAULTS)
def test_a_config_that_does_not_fit_its_data_is_told_with_the_trials_that_have_it(tmp_path, key):
    value, words = FAULTS[key]
    trials = trials_of(tmp_path, kind={"good": {}, "odd": {key: value}})
    with pytest.raises(DataError) as raised:
        check_sources(trials)
    assert str(raised.value).startswith(f"the 4 cells with kind=odd: {words}")
    assert str(raised.value).count(words) == 1 and "kind=good" not in str(raised.value)
    check_sources(trials, {trial.family for trial in trials if trial.labels["kind"] == "odd"})


def test_what_only_some_seeds_draw_is_left_to_their_trials(tmp_path):
    """Two sites that lose each modality with a chance of 0.9: under some seeds no training sample is left."""
    keys = {"missing.empty": "skip", "missing.train": {"level": "site", "rate": 0.9}}
    axes = {"lossy": {"lossy": keys}, "seed": list(range(6))}
    trials = matrix(read_definition(write_sweep(tmp_path, axes=axes)), tmp_path)
    told = [_fault(trial, dataset.load_dataset(trial.config)) for trial in trials]
    assert any(told) and not all(told)
    assert all("found none at any site" in words for words in told if words)
    check_sources(trials)
    with pytest.raises(DataError, match="found none at any site"):
        check_sources([trial for trial, words in zip(trials, told, strict=True) if words])


def test_trials_are_named_by_what_sets_them_apart():
    every = [{"a": a, "b": b, "seed": seed} for a in "xy" for b in "pq" for seed in "01"]
    for kept, words in (
        (every, "all 8 cells"),
        (every[:1], "cell a=x, b=p, seed=0"),
        (every[:4], "the 4 cells with a=x"),
        (every[2:4], "the 2 cells with a=x, b=q"),
        ([every[0], every[7]], "2 cells (a=x, b=p, seed=0 and a=y, b=q, seed=1)"),
    ):
        faults = Faults()
        faults.add("it lacks", kept)
        assert faults.told(every) == f"{words}: it lacks"

"""Configs as users write them: those of this repository for activity recognition, and typing errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedrecon_core.config.loading import load, override, read_yaml
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.files import user_path
from fedrecon_core.recovery.base import recovery_for
from server.runs.setup import load_config
from tests.helpers.raw_uci_har import root

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[4]
CONFIGS = ROOT / "configs"
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("name", ["har/hapt", "har/spsw", "fedmultimodal/uci_har_fedavg"])
def test_a_config_without_its_data_says_what_to_do(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    if list((CONFIGS / "har").glob("*.npz")):
        pytest.skip("the data lie beside their description")
    with pytest.raises(DataError, match=r"put the file there|fedrecon data prepare uci_har"):
        load_dataset(config)


@pytest.mark.parametrize(("name", "file", "sites"), [("hapt", "hapt_ucihar", 17), ("spsw", "spsw_har", 13)])
def test_every_training_subject_is_a_site(name, file, sites, tmp_path):
    if not (DATA / f"{file}.npz").exists():
        pytest.skip(f"{file}.npz is not at ../shared/data")
    shutil.copy(DATA / f"{file}.npz", tmp_path)
    shutil.copy(CONFIGS / "har" / f"{name}_npz.yaml", tmp_path)
    config = load_config(CONFIGS / "har" / f"{name}.yaml", [f"data.root={tmp_path / f'{name}_npz.yaml'}"])
    dataset = load_dataset(config)
    shares = allocate(dataset, config).train
    subjects = [
        np.unique(dataset.cluster_ids[share.samples]).tolist() for share in shares.values() if len(share.samples)
    ]
    assert len(shares) == len(subjects) == sites
    assert sorted(subjects) == [[subject] for subject in np.unique(dataset.cluster_ids[dataset.split == 0])]


def test_the_benchmarks_numbers(tmp_path):
    toy = [f"data.root={root(tmp_path)}", "sites.count=30", "data.partition.least=0"]  # six subjects with 10 windows
    config = load_config(CONFIGS / "fedmultimodal" / "uci_har_fedavg.yaml", toy)
    assert config.rounds == 200
    task = config.local.task
    assert (task.optimizer, task.lr, task.momentum, task.weight_decay) == ("sgd", 0.05, 0.9, 1e-5)
    assert (task.clip, task.batch, task.epochs) == (10, 16, 1)
    assert (config.strategy.name, config.strategy.weighting) == ("fedavg", "samples")
    assert config.evaluate.select == "macro_f1" and config.evaluate.where == "server"
    assert [getattr(config.missing, split).level for split in ("validation", "test")] == ["none"] * 2
    assert (config.missing.train.level, config.missing.train.rate) == ("site", 0)
    full = load_config(CONFIGS / "fedmultimodal" / "uci_har_fedavg.yaml")
    assert full.sites.count == 105 == 21 * full.data.partition.shards
    assert full.data.partition.alpha == 5.0
    assert int(full.sites.fraction * full.sites.count + 1e-9) == 10
    dataset = load_dataset(config)
    shares = allocate(dataset, config).train
    subjects = [np.unique(dataset.cluster_ids[share.samples]) for share in shares.values() if len(share.samples)]
    assert all(len(found) == 1 for found in subjects)
    assert len(dataset.faults) == 1
    recovery_for(config, dataset.spec).build()


# --- what a person types ---------------------------------------------------------------------------------------------


ODD = {
    "a date that is none": "a: 2020-13-45",
    "a number that is none": "a: 0x_",
    "a key that is a list": "? [a]\n: 1",
    "no end of nesting": "a: " + "[" * 1200,
    "a tag": "a: !!int ''",
    "a truth that is none": "a: !!bool x",
    "a repeated key": "a: 1\na: 2",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_yaml_is_one_kind_of_error_and_one_line(text, tmp_path):
    with pytest.raises(yaml.YAMLError):
        load(text)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as message:
        read_yaml(path)
    assert "\n" not in str(message.value)


@pytest.mark.parametrize("value", ["2020-13-45", "0x_", "[" * 1200, "!!bool x"])
def test_odd_settings_are_one_line(value):
    with pytest.raises(ConfigError, match="the value must be YAML"):
        override({}, [f"seed={value}"])


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "a\0b", "x" * 5000])
def test_an_impossible_path_is_reported_with_its_key(text, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root: expected a path, found '"):
        user_path(text, tmp_path, "data.root")


def test_paths_are_relative_to_their_base(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a", tmp_path / "b", "k") == tmp_path / "a"
    assert user_path("../a", tmp_path / "b", "k") == tmp_path / "a"

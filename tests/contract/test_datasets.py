"""What every registered data set promises; a new file in ``fedrecon_core/datasets`` is tested here.

A data set that reads files has a small sample of them: ``tests/helpers/raw_<name>.py`` has ``root(base)``, which
writes a small set in the official layout below ``base``, prepares it where needed, and returns its ``data.root``.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.dataset import Dataset, forget_datasets, load_dataset
from fedrecon_core.data.site_folder.check import check_folder
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.preparation.simulated_sites import write_sites
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, MODALITIES, discover
from server.runs.setup import load_config
from tests.helpers.folders import write_toy_folder, write_toy_sites

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)

FOLDERS = {"sites": write_toy_sites, "folder": write_toy_folder}
"""Data set -> what writes a small folder in its layout."""


def root_of(name: str, base: Path) -> Path | None:
    """The folder of the toy data set; None for one that needs no files."""
    if name in FOLDERS:
        return FOLDERS[name](base)
    toy = f"tests.helpers.raw_{name}"
    return importlib.import_module(toy).root(base) if importlib.util.find_spec(toy) else None


def protocols_of(name: str) -> tuple[str, ...]:
    """The values of the data set's key ``protocol``; one that has no such key has the default alone."""
    fields = DATASETS.get(name).Params.model_fields
    return get_args(fields["protocol"].annotation) if "protocol" in fields else ("default",)


PROTOCOLS = [(name, protocol) for name in DATASETS.names() for protocol in protocols_of(name)]


def config_of(name: str, protocol: str, root: Path | None, sites: int = 2) -> RunConfig:
    """A run over the toy, dealt to so many sites."""
    data: dict[str, Any] = {"name": name, **({"protocol": protocol} if protocol != "default" else {})}
    data |= {} if root is None else {"root": str(root)}
    return parse({"name": "toy", "data": data, "sites": {"count": sites}, "recovery": "mask"})


def build(config: RunConfig) -> Dataset:
    forget_datasets()
    return load_dataset(config)


@pytest.fixture(scope="module")
def place_of(tmp_path_factory) -> Callable[[str], Path | None]:
    """The folder of a toy data set, which is made once."""
    return cache(lambda name: root_of(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module", params=PROTOCOLS, ids="-".join)
def config(request, place_of) -> RunConfig:
    """A run over each data set under each of its protocols."""
    name, protocol = request.param
    return config_of(name, protocol, place_of(name))


@pytest.fixture(scope="module")
def twice(config) -> tuple[Dataset, Dataset]:
    """The data set, loaded and loaded again."""
    return build(config), build(config)


@pytest.fixture(scope="module")
def dataset(twice) -> Dataset:
    return twice[0]


@pytest.fixture(scope="module")
def again(twice) -> Dataset:
    return twice[1]


def test_columns_have_one_entry_per_sample(dataset):
    count = len(dataset.ids)
    for column in (dataset.ids, dataset.split, dataset.cluster_ids, dataset.natural_ids, *dataset.rows.values()):
        assert column.shape == (count,)
        assert column.dtype == np.int64
    assert dataset.labels.dtype == np.int64
    classes = {"multiclass": (count,), "multilabel": (count, len(dataset.spec.classes))}
    assert dataset.labels.shape == classes[dataset.spec.target]


def test_arrays_have_the_shape_of_their_spec_and_finite_float32_values(dataset):
    assert set(dataset.arrays) == set(dataset.rows) == set(dataset.spec.names)
    for modality in dataset.spec.modalities:
        array = dataset.arrays[modality.name]
        ragged = modality.name in dataset.offsets
        assert array.shape[1:] == (modality.shape[1:] if ragged else modality.shape)
        assert array.dtype == np.float32
        assert np.isfinite(np.asarray(array)).all()
        assert modality.kind in MODALITIES.names()


def test_rows_point_into_the_arrays_and_agree_with_what_exists(dataset):
    exists = dataset.exists()
    assert exists.shape == (len(dataset.labels), len(dataset.spec.names))
    assert exists.any(axis=0).all()
    for column, name in enumerate(dataset.spec.names):
        rows = dataset.rows[name]
        count = len(dataset.offsets[name]) - 1 if name in dataset.offsets else len(dataset.arrays[name])
        assert np.array_equal(rows >= 0, exists[:, column])
        assert rows.min() >= -1 and rows.max() < count


def test_offsets_cut_the_whole_array_into_sequences_no_longer_than_the_spec_says(dataset):
    for name, offsets in dataset.offsets.items():
        lengths = np.diff(offsets)
        assert offsets[0] == 0 and offsets[-1] == len(dataset.arrays[name])
        assert lengths.min() >= 1 and lengths.max() <= dataset.spec[name].shape[0]


def test_ids_are_unique(dataset):
    assert len(np.unique(dataset.ids)) == len(dataset.ids)


def test_every_split_shows_every_class(dataset):
    assert set(np.unique(dataset.split)) == {0, 1, 2}
    for part in range(3):
        labels = dataset.labels[dataset.members(part)]
        shown = set(labels.tolist()) if labels.ndim == 1 else set(np.flatnonzero(labels.any(axis=0)).tolist())
        assert shown == set(range(len(dataset.spec.classes)))


def test_no_group_is_in_two_splits_except_with_a_declared_fault(dataset):
    if dataset.faults:
        return
    groups = [set(dataset.cluster_ids[dataset.members(part)].tolist()) for part in range(3)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_a_data_set_has_faults_where_a_protocol_asks_for_them_alone(config, dataset):
    assert bool(dataset.faults) == (getattr(config.data, "protocol", "default") != "default")


def test_no_row_is_shared_between_splits_but_by_a_declared_fault(dataset):
    if dataset.faults:
        return
    for rows in dataset.rows.values():
        parts = [set(rows[dataset.members(part)].tolist()) - {-1} for part in range(3)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_loading_twice_gives_the_same_bytes(dataset, again):
    assert again.spec.digest() == dataset.spec.digest()
    for name in ("labels", "ids", "split", "cluster_ids"):
        assert getattr(again, name).tobytes() == getattr(dataset, name).tobytes()
    for name in dataset.spec.names:
        assert np.asarray(again.arrays[name]).tobytes() == np.asarray(dataset.arrays[name]).tobytes()
        assert again.rows[name].tobytes() == dataset.rows[name].tobytes()


def test_folders_split_of_a_run_pass_their_check_and_keep_the_declared_faults(config, dataset, tmp_path):
    count = len(dataset.sites) or 2
    whole = config_of(config.data.name, getattr(config.data, "protocol", "default"), config.data.root, count)
    folders = [*write_sites(whole, tmp_path / "out")]
    assert len(folders) == count
    for folder in folders:
        assert check_folder(folder) == []
        assert open_folder(folder).faults == dataset.faults
    assert set(build(load_config(tmp_path / "out" / "federation.yaml")).faults) == set(dataset.faults)


PREPARED = [name for name, cls in DATASETS.items() if issubclass(cls, PreparedLoader) and not cls.opens_files]


@pytest.mark.parametrize("name", PREPARED)
def test_the_listing_of_a_data_set_matches_its_prepared_folder(name, place_of):
    cls, spec = DATASETS.get(name), build(config_of(name, "default", place_of(name))).spec
    assert (cls.name, cls.modalities, cls.target) == (spec.name, spec.names, spec.target)

"""The data set that the project ships: built right, visible in every modality, the same in every run."""

import time

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.polydigits import PolyDigits, PolyDigitsParams, sources
from fedrecon_core.registry import CORE_PACKAGES, discover

discover(CORE_PACKAGES)


def params(**keys) -> PolyDigitsParams:
    return PolyDigitsParams(name="polydigits", **keys)


def load(seed: int = 0, **keys) -> Dataset:
    return PolyDigits().load(params(**keys), None, seed)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load()


def test_spec_names_five_colour_images_with_their_likelihood(dataset):
    assert dataset.spec.names == ("m0", "m1", "m2", "m3", "m4")
    for modality in dataset.spec.modalities:
        assert (modality.kind, modality.shape, modality.scale) == ("image", (3, 16, 16), "none")
        assert (modality.likelihood.name, modality.likelihood.std, modality.likelihood.weight) == ("gaussian", 0.1, 1)
    assert dataset.spec.classes == tuple("0123456789")


def test_split_has_the_stated_sizes_and_every_class_in_its_share(dataset):
    first = dataset.ids < 1797
    sizes = np.bincount(dataset.split[first])
    assert sizes.sum() == 1797
    assert np.allclose(sizes, [1200, 200, 397], atol=5)
    for part, share in enumerate(sizes / 1797):
        counts = np.bincount(dataset.labels[first & (dataset.split == part)], minlength=10)
        assert np.allclose(counts, share * np.bincount(dataset.labels[first]), atol=1)


def test_only_training_sources_come_in_several_tuples(dataset):
    for part, tuples in ((0, 3), (1, 1), (2, 1)):
        _, counts = np.unique(dataset.cluster_ids[dataset.members(part)], return_counts=True)
        assert (counts == tuples).all()


def test_class_pairing_shares_the_class_and_not_the_digit(dataset):
    drawn = sources(params())
    label = dict(zip(dataset.cluster_ids.tolist(), dataset.labels.tolist(), strict=True))
    for column in drawn.T:
        assert [label[source] for source in column.tolist()] == dataset.labels.tolist()
    for other in range(1, 5):
        assert (drawn[:, other] == drawn[:, 0]).mean() < 0.05


def test_class_pairing_uses_every_source_once_per_tuple_and_in_one_split_only(dataset):
    drawn, first = sources(params()), dataset.ids < 1797
    for part in range(3):
        own = dataset.split == part
        members = np.sort(drawn[own & first, 0])
        for column in drawn.T:
            assert np.array_equal(np.sort(column[own & first]), members)
            assert np.isin(column[own], members).all()


def test_tuples_of_one_source_differ(dataset):
    drawn = sources(params())
    one = drawn[dataset.cluster_ids == dataset.cluster_ids[dataset.members(0)[0]]]
    assert len(one) == 3 and len(np.unique(one, axis=0)) == 3


def test_instance_pairing_shows_the_same_digit_in_every_modality():
    drawn = sources(params(pairing="instance"))
    assert (drawn == drawn[:, :1]).all()


def test_the_seed_of_the_run_does_not_change_the_data_set(dataset):
    other = load(seed=99)
    assert all(np.array_equal(dataset.arrays[name], other.arrays[name]) for name in dataset.arrays)
    assert np.array_equal(dataset.split, other.split)


def test_a_smaller_set_is_a_part_of_the_larger_one(dataset):
    small = load(tuples=1, modalities=2)
    assert small.spec.names == ("m0", "m1")
    position = {key: index for index, key in enumerate(dataset.ids.tolist())}
    chosen = [position[key] for key in small.ids.tolist()]
    for name in small.spec.names:
        assert np.array_equal(small.arrays[name], dataset.arrays[name][chosen])


def test_values_are_colours_away_from_mid_grey_where_an_inverted_digit_would_not_show(dataset):
    for array in dataset.arrays.values():
        assert array.min() >= 0 and array.max() <= 1
        assert np.abs(array - 0.5).mean() > 0.2
        assert array.std(axis=1).mean() > 0.01  # coloured, not grey


def test_backgrounds_differ(dataset):
    corners = [array[:, :, 0, 0].mean(axis=0) for array in dataset.arrays.values()]
    for first in range(5):
        for second in range(first):
            assert np.abs(corners[first] - corners[second]).max() > 0.1


def test_loads_in_well_under_a_second_once_scikit_learn_is_imported():
    start = time.process_time()
    load()
    assert time.process_time() - start < 2  # about 0.3 s on an idle core


@pytest.mark.parametrize("wrong", [{"modalities": 6}, {"modalities": 1}, {"tuples": 0}, {"pairing": "none"}])
def test_impossible_keys_are_refused_by_name(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        params(**wrong)


@pytest.mark.parametrize("modality", ["m0", "m1", "m2", "m3", "m4"])
def test_a_small_network_reads_the_digit_from_each_modality(dataset, modality):
    assert accuracy(dataset, modality) > 0.9


def accuracy(dataset: Dataset, modality: str) -> float:
    """Test accuracy of two convolutions after four epochs (0.4 s)."""
    torch.set_num_threads(1)
    values, labels = torch.from_numpy(dataset.arrays[modality]), torch.from_numpy(dataset.labels)
    train, test = torch.from_numpy(dataset.members(0)), torch.from_numpy(dataset.members(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(4):
            for batch in train[torch.randperm(len(train))].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(values[batch]), labels[batch]).backward()
                optimizer.step()
    with torch.no_grad():
        return float((net(values[test]).argmax(1) == labels[test]).float().mean())

"""The pattern of presence: what is counted, and that a data set and an allocation are counted alike."""

from dataclasses import replace

import numpy as np
import pytest

from fedrecon_core.data.allocation import Allocation, Share
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.missingness_summary import MissingnessSummary, summarise_allocation, summarise_dataset
from fedrecon_core.types import DatasetSpec, ModalitySpec

pytestmark = pytest.mark.quick
NAMES = ("m0", "m1", "m2")
SPEC = DatasetSpec(
    name="toy",
    modalities=tuple(ModalitySpec(name=name, kind="vector", shape=(1,)) for name in NAMES),
    classes=("a", "b"),
)
PRESENT = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)
LABELS = np.array([0, 1, 1, 0, 0])


def toy_set() -> Dataset:
    rows = {name: np.where(PRESENT[:, at], np.cumsum(PRESENT[:, at]) - 1, -1) for at, name in enumerate(NAMES)}
    return Dataset(
        spec=SPEC,
        labels=LABELS,
        ids=np.arange(5),
        split=np.array([0, 0, 0, 0, 2]),
        cluster_ids=np.arange(5),
        arrays={name: np.zeros((int(PRESENT[:, at].sum()), 1), dtype=np.float32) for at, name in enumerate(NAMES)},
        rows=rows,
    )


def test_combinations_come_in_order_of_their_frequency():
    found = MissingnessSummary.of(SPEC, LABELS, PRESENT)
    assert found.combinations == {("m0", "m2"): 3, ("m1",): 1, (): 1}
    assert next(iter(found.combinations)) == ("m0", "m2")
    assert found.samples == 5 == sum(found.combinations.values())
    assert found.by_modality.tolist() == [3, 1, 3]


def test_classes_and_sites_are_counted_in_their_order():
    found = MissingnessSummary.of(SPEC, LABELS, PRESENT, np.array([1, 1, 0, 0, 1]), ("x", "y", "z"))
    assert found.of_class.tolist() == [3, 2]
    assert found.by_class.tolist() == [[2, 0, 2], [1, 1, 1]]
    assert found.sites == ("x", "y", "z")
    assert found.of_site.tolist() == [2, 3, 0]
    assert found.by_site.tolist() == [[0, 1, 0], [3, 0, 3], [0, 0, 0]]


def test_without_sites_nothing_is_counted_by_site():
    found = MissingnessSummary.of(SPEC, LABELS, PRESENT)
    assert (found.sites, found.of_site.shape, found.by_site.shape) == ((), (0,), (0, 3))


def test_a_multilabel_sample_counts_in_each_of_its_classes():
    spec = SPEC.model_copy(update={"target": "multilabel"})
    labels = np.array([[1, 1], [0, 1], [0, 0], [1, 0], [0, 0]])
    found = MissingnessSummary.of(spec, labels, PRESENT)
    assert found.samples == 5
    assert found.of_class.tolist() == [2, 2]
    assert found.by_class.tolist() == [[1, 0, 1], [2, 0, 2]]


def test_no_samples_give_a_pattern_of_zeros():
    found = MissingnessSummary.of(SPEC, LABELS[:0], PRESENT[:0], LABELS[:0], ("x",))
    assert (found.samples, found.combinations) == (0, {})
    assert found.by_site.tolist() == [[0, 0, 0]] and found.of_class.tolist() == [0, 0]


def test_a_data_set_is_counted_split_by_split_as_it_really_is():
    found = summarise_dataset(toy_set())
    assert list(found) == ["train", "validation", "test"]
    assert found["train"].combinations == {("m0", "m2"): 2, ("m1",): 1, (): 1}
    assert found["validation"].samples == 0
    assert found["test"].combinations == {("m0", "m2"): 1}
    owned = summarise_dataset(replace(toy_set(), sites=("x", "y"), owner=np.array([0, 1, 1, 1, 0])))
    assert owned["train"].by_site.tolist() == [[1, 0, 1], [1, 1, 1]]


def test_an_allocation_is_counted_as_its_masks_show_it_once_per_draw():
    share = Share(np.array([0, 2]), PRESENT[[0, 2]])
    hidden = Share(np.array([1]), np.zeros((1, 3), dtype=bool))
    twice = Share(np.array([4, 4]), np.array([[True, False, False], [False, False, True]]))
    empty = Share(np.arange(0), PRESENT[:0])
    allocation = Allocation({"x": share, "y": hidden}, {"server": empty}, {"server": twice}, {}, "", "")
    found = summarise_allocation(toy_set(), allocation)
    assert found["train"].combinations == {(): 1, ("m1",): 1, ("m0", "m2"): 1}
    assert found["train"].sites == ("x", "y") and found["train"].of_site.tolist() == [2, 1]
    assert found["test"].combinations == {("m2",): 1, ("m0",): 1}
    assert found["test"].of_class.tolist() == [2, 0]
    assert found["validation"].samples == 0

"""A site's data: only what the mask shows, in rows of its own; sequences in their lengths."""

import numpy as np
import pytest
import torch

from fedrecon_core.data.site_data import ModalityArray, open_site
from tests.helpers.toy import CPU, NAMES, everything, tiny_dataset

pytestmark = pytest.mark.quick


def half(count: int = 48) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3)) < 0.5


def sequence(dataset, sample: int) -> np.ndarray:
    row = dataset.rows["steps"][sample]
    return dataset.arrays["steps"][dataset.offsets["steps"][row] : dataset.offsets["steps"][row + 1]]


def test_every_shown_row_is_the_data_sets_and_no_other_is_there():
    dataset, present = tiny_dataset(), half()
    samples = np.random.default_rng(1).permutation(dataset.members(0))
    batch = open_site(dataset, samples, present, device=CPU).batch(torch.arange(48))
    assert torch.equal(batch.present, torch.from_numpy(present))
    for column, name in enumerate(NAMES):
        rows = batch.inputs[name]
        assert rows.index.tolist() == np.flatnonzero(present[:, column]).tolist()
        for place, sample in enumerate(rows.index.tolist()):
            if name == "steps":
                expected = sequence(dataset, samples[sample])
                assert rows.lengths[place] == len(expected)
                found = rows.values[place, : len(expected)]
                assert not rows.values[place, len(expected) :].any()
            else:
                expected, found = dataset.arrays[name][samples[sample]], rows.values[place]
            assert np.array_equal(found.numpy(), expected)


def test_labels_ids_and_groups_follow_the_samples():
    dataset, samples = tiny_dataset(), np.array([5, 2, 40])
    site = open_site(dataset, samples, everything(3), device=CPU)
    assert len(site) == 3
    assert site.labels.tolist() == dataset.labels[samples].tolist()
    assert site.ids.tolist() == [1005, 1002, 1040]
    assert site.cluster_ids.tolist() == dataset.cluster_ids[samples].tolist()


def test_absent_rows_are_not_in_the_columns():
    dataset, present = tiny_dataset(), half()
    for column, name in enumerate(NAMES[:2]):
        for sample in np.flatnonzero(~present[:, column]):
            dataset.arrays[name][sample] = np.nan
    hidden = np.flatnonzero(~present[:, 2])
    for sample in hidden:
        sequence(dataset, sample)[:] = np.nan
    site = open_site(dataset, dataset.members(0), present, device=CPU)
    for column, name in enumerate(NAMES):
        assert torch.isfinite(site.arrays[name].values).all()
        shown = present[:, column]
        expected = sum(len(sequence(dataset, s)) for s in np.flatnonzero(shown)) if name == "steps" else shown.sum()
        assert len(site.arrays[name].values) == expected


def test_the_sealed_copy_is_made_only_on_request_and_holds_just_the_hidden_rows():
    dataset, present = tiny_dataset(), half()
    plain = open_site(dataset, dataset.members(0), present, device=CPU)
    assert plain.sealed is None
    assert plain.batch(torch.arange(4)).sealed is None
    batch = open_site(dataset, dataset.members(0), present, device=CPU, sealed=True).batch(torch.arange(48))
    for column, name in enumerate(NAMES):
        assert batch.sealed[name].index.tolist() == np.flatnonzero(~present[:, column]).tolist()
    features = dataset.arrays["features"][:48][~present[:, 1]]
    assert np.array_equal(batch.sealed["features"].values.numpy(), features)


def test_the_data_set_is_copied_not_shared():
    dataset = tiny_dataset()
    site = open_site(dataset, dataset.members(0), everything(48), device=CPU)
    before = site.arrays["features"].values.clone()
    dataset.arrays["features"][:] = 99
    assert torch.equal(site.arrays["features"].values, before)


def test_a_sample_that_really_lacks_a_modality_stays_without_it_whatever_the_mask_says():
    dataset = tiny_dataset()
    dataset.rows["features"][::3] = -1
    site = open_site(dataset, dataset.members(0), everything(48), device=CPU)
    assert site.present[:, 1].tolist() == [i % 3 != 0 for i in range(48)]
    assert site.having("features").tolist() == [i for i in range(48) if i % 3]


def test_a_sample_may_come_twice():
    dataset = tiny_dataset()
    samples = np.array([3, 3, 7])
    present = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
    site = open_site(dataset, samples, present, device=CPU)
    batch = site.batch(torch.arange(3))
    assert len(site.arrays["picture"].values) == 2
    assert torch.equal(batch.inputs["picture"].values[0], batch.inputs["picture"].values[1])
    assert batch.inputs["features"].index.tolist() == [0, 2]


def test_modalities_and_samples_that_have_them():
    present = half()
    present[:, 2] = False
    dataset = tiny_dataset()
    site = open_site(dataset, dataset.members(0), present, device=CPU)
    assert site.modalities == ("picture", "features")
    assert site.having("picture", "features").tolist() == np.flatnonzero(present[:, 0] & present[:, 1]).tolist()
    assert site.having("steps").tolist() == []
    assert site.having().tolist() == list(range(48))


def test_a_batch_without_a_modality_has_no_rows_of_it():
    present = everything(48)
    present[:, 1:] = False
    dataset = tiny_dataset()
    batch = open_site(dataset, dataset.members(0), present, device=CPU).batch(torch.arange(5))
    assert batch.size == 5
    assert batch.inputs["features"].values.shape == (0, 5)
    assert batch.inputs["steps"].values.shape[0] == 0
    assert batch.inputs["steps"].lengths.tolist() == []


def test_a_site_without_samples_opens():
    site = open_site(tiny_dataset(), np.zeros(0, dtype=np.int64), np.ones((0, 3), dtype=bool), device=CPU)
    assert len(site) == 0
    assert site.modalities == ()


def test_a_ragged_batch_is_as_long_as_its_longest_sequence():
    offsets = torch.tensor([0, 2, 3, 7])
    values = torch.arange(7.0)[:, None]
    column = ModalityArray(values, torch.tensor([2, -1, 0, 1]), offsets)
    rows = column.take(torch.tensor([3, 1, 2]))
    assert rows.index.tolist() == [0, 2]
    assert rows.lengths.tolist() == [1, 2]
    assert rows.values.squeeze(-1).tolist() == [[2.0, 0.0], [0.0, 1.0]]

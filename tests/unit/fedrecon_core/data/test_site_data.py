"""The data of a site: statistics and scaling, rows and batches, and summaries of missingness."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrecon_core.data import site_data as site
from fedrecon_core.data import statistics
from fedrecon_core.data.allocation import Allocation, Share
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.missingness_summary import MissingnessSummary, summarise_allocation, summarise_dataset
from fedrecon_core.data.site_data import ModalityArray, open_site, open_split
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.data.statistics import Statistics, after_scaling, combine, same_values, scaled, site_sums
from fedrecon_core.types import DatasetSpec, ModalitySpec
from tests.helpers.folders import content
from tests.helpers.toy import CPU, NAMES, everything, tiny_dataset, toy_site, toy_spec

pytestmark = pytest.mark.quick


def sites_of(dataset, present):
    parts = np.array_split(dataset.members(0), [5, 20])
    masks = np.array_split(present, [5, 20])
    return [open_site(dataset, s, mask, device=CPU) for s, mask in zip(parts, masks, strict=True)]


def test_combined_statistics_are_those_of_all_present_rows_together():
    dataset = tiny_dataset()
    present = np.random.default_rng(0).random((48, 3)) < 0.6
    found = combine(site_sums(site) for site in sites_of(dataset, present))
    steps = [dataset.arrays["steps"][slice(*dataset.offsets["steps"][i : i + 2])] for i in range(48) if present[i, 2]]
    expected = {
        "picture": dataset.arrays["picture"][:48][present[:, 0]].reshape(-1, 36),
        "features": dataset.arrays["features"][:48][present[:, 1]],
        "steps": np.concatenate(steps),
    }
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name].mean.numpy(), rows.astype(np.float64).mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found[name].std.numpy(), rows.astype(np.float64).std(0), rtol=1e-6, atol=1e-9)


def test_a_modality_that_no_site_has_has_no_statistics():
    present = everything(48)
    present[:, 1] = False
    found = combine(site_sums(site) for site in sites_of(tiny_dataset(), present))
    assert set(found) == {"picture", "steps"}


def test_scaling_gives_present_rows_mean_0_and_deviation_1_and_leaves_other_modalities():
    site = toy_site(tiny_dataset(scale="standard"))
    after = scaled(site, combine([site_sums(site)]))
    values = after.arrays["features"].values
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(0, correction=0), torch.ones(5), atol=1e-5, rtol=0)
    assert after.arrays["picture"] is site.arrays["picture"]
    assert after.arrays["steps"] is site.arrays["steps"]


def test_a_constant_feature_is_centred_and_not_stretched():
    dataset = tiny_dataset(scale="standard")
    dataset.arrays["features"][:, 2] = 7.0
    site = toy_site(dataset)
    values = scaled(site, combine([site_sums(site)])).arrays["features"].values
    assert values[:, 2].abs().max() < 1e-5


def test_without_the_wish_for_it_nothing_is_scaled():
    site = toy_site()
    assert scaled(site, combine([site_sums(site)])) is site


def test_the_sealed_copy_is_scaled_alike():
    present = everything(48)
    present[::2, 1] = False
    dataset = tiny_dataset(scale="standard")
    site = toy_site(dataset, present, sealed=True)
    statistics = combine([site_sums(site)])
    hidden = dataset.arrays["features"][:48:2]
    expected = (hidden - statistics["features"].mean.numpy()) / statistics["features"].std.numpy()
    np.testing.assert_allclose(
        scaled(site, statistics).sealed["features"].values.numpy(), expected, rtol=1e-4, atol=1e-5
    )


def test_models_see_mean_0_and_deviation_1_where_scaled():
    known = {n: Statistics(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0])) for n in ("features", "steps")}
    seen = after_scaling(toy_spec("standard").modalities, known)
    assert seen["features"].mean.tolist() == [0.0, 0.0]
    assert seen["features"].std.tolist() == [1.0, 0.0]
    assert seen["steps"] is known["steps"]


# --- large modalities: the same numbers in blocks and batch by batch --------------------------------------------------


def opened(tmp_path, scale="standard"):
    """The toy dealt out in a simulation, and the same in a folder of its own."""
    dataset = tiny_dataset(scale=scale)
    shown = np.random.default_rng(3).random((len(dataset.labels), 3)) < 0.7
    write_folder(tmp_path / "own", content(dataset, shown))
    members = dataset.members(0)
    members = members[shown[members].any(axis=1)]
    dealt = open_site(dataset, members, shown[members], device=CPU, sealed=True)
    return dealt, open_split(open_folder(tmp_path / "own"), "train", device=CPU, keep_empty=False)


def test_sums_in_blocks_are_the_sums(tmp_path, monkeypatch):
    dealt, own = opened(tmp_path)
    whole = combine([site_sums(dealt)])
    monkeypatch.setattr(statistics, "BLOCK", 4 * 8 * 3 * 5)  # five sequences
    for data in (dealt, own):
        found = combine([site_sums(data)])
        for name, known in whole.items():
            torch.testing.assert_close(found[name].mean, known.mean, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[name].std, known.std, rtol=1e-9, atol=1e-12)
    assert site_sums(dealt) == site_sums(own)


def test_what_is_scaled_as_it_is_taken_is_what_is_scaled_at_once(tmp_path, monkeypatch):
    dealt, own = opened(tmp_path)
    spec = dealt.spec.model_copy(
        update={"modalities": tuple(m.model_copy(update={"scale": "standard"}) for m in dealt.spec.modalities)}
    )
    dealt, own = replace(dealt, spec=spec), replace(own, spec=spec)
    known = combine([site_sums(dealt)])
    index = torch.tensor([5, 0, 17, 3])
    at_once = scaled(dealt, known)
    assert all(column.scaling is None for column in at_once.arrays.values())
    monkeypatch.setattr(site, "SCALED_AT_ONCE", 0)
    for data in (scaled(dealt, known), scaled(own, known)):
        assert all(column.scaling is not None for column in data.arrays.values())
        for name, rows in at_once.batch(index).inputs.items():
            found = data.batch(index).inputs[name]
            assert torch.equal(found.values, rows.values)
            assert not torch.equal(rows.values, dealt.batch(index).inputs[name].values)
    sealed, raw = scaled(dealt, known).batch(index).sealed, dealt.batch(index).sealed
    for name, rows in at_once.batch(index).sealed.items():
        assert torch.equal(sealed[name].values, rows.values)
        assert len(rows.values) == 0 or not torch.equal(rows.values, raw[name].values)


def test_scaling_follows_the_values_to_their_device():
    column = ModalityArray(torch.zeros(4, 5, device="meta"), torch.arange(4))
    known = Statistics(torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
    modality = toy_spec()["features"].model_copy(update={"scale": "standard"})
    scaling = statistics.scalings([modality], {"features": known})["features"]
    assert column.scaled(scaling).values.device.type == "meta"


def test_small_units_are_scaled_and_constants_are_not():
    known = Statistics(torch.tensor([0.0, 3e-12, 7.0, 0.0, 1e5]), torch.tensor([2e-12, 1e-12, 1e-9, 0.0, 0.05]))
    assert known.varies.tolist() == [True, True, False, False, True]


# --- sums of two places -----------------------------------------------------------------------------------------------


def sums_of(values: np.ndarray, order: np.ndarray | None = None) -> tuple[float, list[float], list[float]]:
    """The sums over float32 [N, F], one value after the other in ``instruction``."""
    rows = values.astype(np.float64)[slice(None) if order is None else order]
    return float(len(rows)), np.cumsum(rows, axis=0)[-1].tolist(), np.cumsum(rows**2, axis=0)[-1].tolist()


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.0, 1e-9), (1e4, 1.0), (-3.0, 1e9)])
def test_the_order_in_which_values_are_added_makes_no_other_values(shift, scale):
    draw = np.random.default_rng(0)
    values = ((draw.standard_normal((20_000, 3)) + shift) * scale).astype(np.float32)
    one, other = sums_of(values), sums_of(values, draw.permutation(len(values)))
    assert one != other
    assert same_values(one, other) and same_values(other, one)
    changed = values.copy()
    changed[17, 1] = values[18, 1]
    assert not same_values(one, sums_of(changed)) and not same_values(sums_of(changed), one)


def test_other_counts_and_features_are_other_values():
    one = (2.0, [1.0, 0.0], [1.0, 0.0])
    assert same_values(one, one)
    assert not same_values(one, (3.0, [1.0, 0.0], [1.0, 0.0]))
    assert not same_values(one, (2.0, [1.0], [1.0]))
    assert not same_values(one, (2.0, [1.0, 0.0], [1.0]))
    assert not same_values(one, (2.0, [1.0, 1e-300], [1.0, 0.0]))
    assert not same_values(one, (2.0, [1.0, math.nan], [1.0, math.nan]))
    for odd in (math.nan, math.inf):
        gap = (2.0, [1.0, odd], [1.0, odd])
        assert same_values(gap, gap) and not same_values(gap, one) and not same_values(one, gap)


# --- a site's data ---------------------------------------------------------------------------------------------------


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


def test_a_really_missing_modality_stays_missing_under_any_mask():
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


# --- the pattern of presence -----------------------------------------------------------------------------------------


SUMMARY_NAMES = ("m0", "m1", "m2")
SPEC = DatasetSpec(
    name="toy",
    modalities=tuple(ModalitySpec(name=name, kind="vector", shape=(1,)) for name in SUMMARY_NAMES),
    classes=("a", "b"),
)
PRESENT = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)
LABELS = np.array([0, 1, 1, 0, 0])


def toy_set() -> Dataset:
    rows = {name: np.where(PRESENT[:, at], np.cumsum(PRESENT[:, at]) - 1, -1) for at, name in enumerate(SUMMARY_NAMES)}
    return Dataset(
        spec=SPEC,
        labels=LABELS,
        ids=np.arange(5),
        split=np.array([0, 0, 0, 0, 2]),
        cluster_ids=np.arange(5),
        arrays={
            name: np.zeros((int(PRESENT[:, at].sum()), 1), dtype=np.float32) for at, name in enumerate(SUMMARY_NAMES)
        },
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

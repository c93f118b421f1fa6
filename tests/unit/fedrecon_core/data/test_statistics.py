"""Federation-wide statistics from the sites' sums against NumPy over everything at once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedrecon_core.data import site_data as site
from fedrecon_core.data import statistics
from fedrecon_core.data.site_data import ModalityArray, open_site, open_split
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.data.statistics import Statistics, after_scaling, combine, same_values, scaled, site_sums
from tests.helpers.folders import content
from tests.helpers.toy import CPU, everything, tiny_dataset, toy_site, toy_spec

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

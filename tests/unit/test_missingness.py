"""Presence masks: the right rates, nothing left with nothing, and no dependence on anything but config and seed."""

from dataclasses import replace

import numpy as np
import pytest

from fedrecon_core.config import Missing, MissingTrain, Params, RunConfig, parse
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.missingness import Scheme, rates, sample_masks, site_masks
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from fedrecon_core.types import DatasetSpec, ModalitySpec

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)
NAMES = ("image", "text", "audio")


@pytest.fixture(autouse=True, scope="module")
def toys():
    for registry in (RECOVERIES, STRATEGIES):
        registry.register("toy")(type("Toy", (), {"Params": Params}))
    yield
    for registry in (RECOVERIES, STRATEGIES):
        registry.forget("toy")


def scheme(level="sample", rate=0.0, *, empty="redraw", seed=0, split="train", **keys) -> Scheme:
    return Scheme(MissingTrain(level=level, rate=rate, **keys), empty, NAMES, split, seed)


def everything(count: int) -> np.ndarray:
    return np.ones((count, 3), dtype=bool)


def toy_set(train: int = 600, lacking: str | None = None) -> Dataset:
    """Samples of one value each; every third sample really lacks the modality ``lacking``."""
    count = train + 200
    rows = {name: np.arange(count) for name in NAMES}
    if lacking:
        rows[lacking] = np.where(np.arange(count) % 3 == 0, -1, rows[lacking])
    modalities = tuple(ModalitySpec(name=name, kind="vector", shape=(1,)) for name in NAMES)
    return Dataset(
        spec=DatasetSpec(name="toy", modalities=modalities, classes=tuple("abcdef")),
        labels=np.arange(count) % 6,
        ids=np.arange(count) + 1000,
        split=np.repeat([0, 1, 2], [train, 100, 100]),
        groups=np.arange(count) // 4,
        arrays={name: np.zeros((count, 1), dtype=np.float32) for name in NAMES},
        rows=rows,
    )


def config(train=None, *, seed=0, count=10, where="server", empty="redraw", **splits) -> RunConfig:
    return parse(
        {
            "seed": seed,
            "data": {"name": "polydigits"},
            "recovery": "toy",
            "strategy": "toy",
            "sites": {"count": count},
            "evaluate": {"where": where},
            "missing": {"empty": empty, "train": train or {}, **splits},
        }
    )


@pytest.mark.parametrize("empty", ["skip", "allow"])
def test_unconditioned_masks_lose_each_modality_at_its_own_rate(empty):
    masks = sample_masks(scheme(rate={"image": 0.2, "audio": 0.9}, empty=empty), everything(20000))
    assert np.allclose(1 - masks.mean(axis=0), [0.2, 0.0, 0.9], atol=0.015)


def test_modalities_are_lost_independently_of_each_other():
    masks = sample_masks(scheme(rate=0.5, empty="allow"), everything(20000))
    assert np.allclose(np.corrcoef(masks.T), np.eye(3), atol=0.03)


@pytest.mark.parametrize("rate", [0.3, 0.8, {"image": 0.9, "text": 0.5, "audio": 1.0}])
def test_redraw_has_the_distribution_of_drawing_until_something_is_kept(rate):
    masks = sample_masks(scheme(rate=rate), everything(40000))
    plain = sample_masks(scheme(rate=rate, empty="allow", seed=1), everything(200000))
    accepted = plain[plain.any(axis=1)]
    assert masks.any(axis=1).all()
    shares = [np.bincount(kept @ [1, 2, 4], minlength=8) / len(kept) for kept in (masks, accepted)]
    assert np.allclose(*shares, atol=0.012)


def test_extreme_rates_keep_exactly_what_is_possible():
    assert sample_masks(scheme(rate=0.0), everything(50)).all()
    only_text = sample_masks(scheme(rate={"image": 1.0, "audio": 1.0, "text": 0.999999}), everything(50))
    assert np.array_equal(only_text, np.tile([False, True, False], (50, 1)))
    assert not sample_masks(scheme(rate=1.0, empty="allow"), everything(50)).any()


def test_redraw_with_everything_absent_is_refused():
    with pytest.raises(ConfigError, match=r"missing\.train\.rate: .*below 1, found 1\.0 for all of image, text, audio"):
        rates(scheme(rate=1.0))
    with pytest.raises(ConfigError, match=r"missing\.train\.rate"):
        rates(scheme(rate=dict.fromkeys(NAMES, 1.0)))
    assert rates(scheme(rate=1.0, empty="skip")).tolist() == [1, 1, 1]


def test_an_unknown_modality_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"missing\.train\.rate: .*image, text, audio.*'video'"):
        sample_masks(scheme(rate={"video": 0.5}), everything(5))
    profile = [{"sites": 1, "modalities": ["text"]}, {"sites": 1, "modalities": ["video"]}]
    with pytest.raises(ConfigError, match=r"missing\.train\.profile\.1\.modalities: .*'video'"):
        site_masks(scheme("profile", profile=profile), everything(2))


def test_what_does_not_exist_is_never_present_and_redraw_keeps_something_that_does():
    exists = np.random.default_rng(0).random((5000, 3)) < 0.5
    masks = sample_masks(scheme(rate=0.7), exists)
    assert not (masks & ~exists).any()
    assert np.array_equal(masks.any(axis=1), exists.any(axis=1))


def test_a_mask_depends_only_on_its_own_position_seed_split_and_draw():
    long, short = sample_masks(scheme(rate=0.5), everything(100)), sample_masks(scheme(rate=0.5), everything(40))
    assert np.array_equal(long[:40], short)
    changed = everything(100)
    changed[0] = [True, False, False]
    assert np.array_equal(sample_masks(scheme(rate=0.5), changed)[1:], long[1:])
    others = [scheme(rate=0.5, seed=1), scheme(rate=0.5, split="test")]
    for other in others:
        assert not np.array_equal(sample_masks(other, everything(100)), long)
    assert not np.array_equal(sample_masks(scheme(rate=0.5), everything(100), draw=1), long)


def test_coupled_shows_exactly_one_existing_modality_drawn_evenly():
    masks = sample_masks(scheme("coupled"), everything(9000))
    assert (masks.sum(axis=1) == 1).all()
    assert np.allclose(masks.mean(axis=0), 1 / 3, atol=0.02)
    exists = np.array([[False, True, True], [True, False, False], [False, False, False]])
    assert sample_masks(scheme("coupled"), exists).sum(axis=1).tolist() == [1, 1, 0]
    assert not (sample_masks(scheme("coupled"), exists) & ~exists).any()


def test_level_none_shows_all_that_exists():
    exists = np.random.default_rng(0).random((50, 3)) < 0.5
    assert np.array_equal(sample_masks(scheme("none"), exists), exists)


def test_profile_gives_sites_their_modalities_in_the_order_of_the_list():
    profile = [{"sites": 2, "modalities": ["audio"]}, {"sites": 1, "modalities": ["image", "text"]}]
    masks = site_masks(scheme("profile", profile=profile), everything(3))
    assert masks.astype(int).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    with pytest.raises(ConfigError, match=r"missing\.train\.profile: expected 4 sites .*found 3"):
        site_masks(scheme("profile", profile=profile), everything(4))


def test_site_level_gives_all_samples_of_a_site_one_mask_with_something_in_it():
    allocation = allocate(toy_set(), config({"level": "site", "rate": 0.8}))
    for share in allocation.train.values():
        assert (share.present == share.present[0]).all()
        assert share.present[0].any()


def test_more_sites_keep_the_masks_of_those_before_them():
    few, many = (allocate(toy_set(), config({"level": "site", "rate": 0.5}, count=count)).train for count in (5, 20))
    for name, share in few.items():
        assert np.array_equal(share.present[0], many[name].present[0])


def test_a_site_that_loses_all_sits_out_with_skip_and_stays_unconditioned_with_allow():
    keys = {"level": "site", "rate": 0.8}
    skipped = allocate(toy_set(), config(keys, empty="skip")).train
    allowed = allocate(toy_set(), config(keys, empty="allow")).train
    assert list(skipped) == list(allowed) and len(skipped) == 10
    lost = [name for name, share in allowed.items() if not share.present.any()]
    assert lost
    for name, share in skipped.items():
        assert len(share.samples) == (0 if name in lost else len(allowed[name].samples))
        assert share.present.shape == (len(share.samples), 3)


def test_a_sample_that_loses_all_is_left_out_with_skip_and_kept_with_allow():
    keys = {"level": "sample", "rate": 0.8}
    sizes = {
        empty: sum(len(share.samples) for share in allocate(toy_set(), config(keys, empty=empty)).train.values())
        for empty in ("redraw", "skip", "allow")
    }
    assert sizes["redraw"] == sizes["allow"] == 600
    assert sizes["skip"] == pytest.approx(600 * (1 - 0.8**3), abs=50)


def test_training_without_a_single_modality_is_refused():
    with pytest.raises(DataError, match=r"missing\.train: .*found none"):
        allocate(toy_set(), config({"level": "sample", "rate": 1.0}, empty="skip"))


@pytest.mark.parametrize("level", ["none", "site", "sample"])
def test_real_missingness_stays_and_no_sample_is_left_with_nothing(level):
    dataset = toy_set(lacking="text")
    allocation = allocate(dataset, config({"level": level, "rate": 0.6 if level != "none" else 0.0}))
    for share in (*allocation.train.values(), allocation.validation["server"], allocation.test["server"]):
        assert not (share.present & ~dataset.exists()[share.samples]).any()
        assert share.present.any(axis=1).all()


def test_effective_rates_are_those_of_the_masks_that_are_used():
    allocation = allocate(
        toy_set(lacking="text"),
        config({"level": "sample", "rate": 0.5}, test={"level": "sample", "rate": {"image": 0.3}}),
    )
    for split in ("train", "validation", "test"):
        shown = np.concatenate([share.present for share in getattr(allocation, split).values()])
        assert list(allocation.effective_rates[split].values()) == pytest.approx((1 - shown.mean(axis=0)).tolist())
    assert allocation.effective_rates["train"]["image"] < 0.5  # the redraw keeps more than asked
    assert allocation.effective_rates["validation"]["text"] == pytest.approx(1 / 3, abs=0.02)
    assert allocation.effective_rates["test"]["audio"] == 0


def test_each_test_sample_comes_once_per_draw_under_independent_masks():
    dataset = toy_set()
    draws = {"level": "sample", "rate": 0.5, "draws": 3}
    share = allocate(dataset, config(test=draws)).test["server"]
    assert np.array_equal(share.samples, np.tile(dataset.members(2), 3))
    first, second, third = np.split(share.present, 3)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)
    alone = allocate(dataset, config(test={**draws, "draws": 1})).test["server"]
    assert np.array_equal(alone.present, first)


def test_coupled_test_shows_one_modality_drawn_anew_in_each_draw():
    share = allocate(toy_set(), config(test={"level": "coupled", "draws": 2})).test["server"]
    assert (share.present.sum(axis=1) == 1).all()
    assert not np.array_equal(*np.split(share.present, 2))


def test_masks_do_not_see_values_labels_or_the_partition():
    dataset = toy_set()
    keys = {"level": "sample", "rate": 0.5}
    other = replace(
        dataset, arrays={name: array + 1 for name, array in dataset.arrays.items()}, labels=dataset.labels[::-1]
    )
    for changed, count in ((other, 10), (dataset, 3)):
        assert _by_sample(dataset, config(keys)) == _by_sample(changed, config(keys, count=count))


def _by_sample(dataset: Dataset, run: RunConfig) -> dict[int, list[bool]]:
    shares = allocate(dataset, run).train.values()
    return {
        int(sample): row.tolist() for share in shares for sample, row in zip(share.samples, share.present, strict=True)
    }


@pytest.mark.parametrize("train", [{"level": "site", "rate": 0.6}, {"level": "coupled"}])
def test_sites_are_evaluated_under_their_own_training_masks(train):
    allocation = allocate(toy_set(), config(train, where="sites", validation={"level": "site"}, test={"level": "site"}))
    for split in (allocation.validation, allocation.test):
        assert list(split) == list(allocation.train)
        for name, share in split.items():
            assert (share.present == allocation.train[name].present[0]).all()


def test_a_site_level_of_evaluation_without_training_masks_draws_its_own():
    run = config({"level": "sample", "rate": 0.2}, where="sites", test={"level": "site", "rate": 0.7})
    for share in allocate(toy_set(), run).test.values():
        assert (share.present == share.present[0]).all() and share.present[0].any()


def test_contradicting_masks_of_the_sites_are_refused():
    run = config({"level": "site", "rate": 0.6}, where="sites", test={"level": "site", "rate": 0.3})
    with pytest.raises(ConfigError, match=r"missing\.test\.rate: .*found 0\.3"):
        allocate(toy_set(), run)
    lists = [[{"sites": 10, "modalities": [name]}] for name in ("text", "image")]
    run = config(
        {"level": "profile", "profile": lists[0]}, where="sites", validation={"level": "profile", "profile": lists[1]}
    )
    with pytest.raises(ConfigError, match=r"missing\.validation\.profile"):
        allocate(toy_set(), run)


def test_a_missing_config_of_one_split_is_enough():
    assert sample_masks(Scheme(Missing(), "redraw", NAMES, "test", 0), everything(4)).all()

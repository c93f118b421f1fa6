"""Presence masks: the right rates, nothing left with nothing, and no dependence on anything but config and seed."""

from dataclasses import replace

import numpy as np
import pytest

from fedrecon_core.config import Missing, MissingTrain, Params, RunConfig, StrategyParams, parse
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.missingness import Scheme, Traits, rates, sample_masks, sample_rates, site_masks
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from fedrecon_core.types import DatasetSpec, ModalitySpec

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)
NAMES = ("image", "text", "audio")


@pytest.fixture(autouse=True, scope="module")
def toys():
    for registry, params in ((RECOVERIES, Params), (STRATEGIES, StrategyParams)):
        registry.register("toy")(type("Toy", (), {"Params": params}))
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
        cluster_ids=np.arange(count) // 4,
        arrays={name: np.zeros((count, 1), dtype=np.float32) for name in NAMES},
        rows=rows,
    )


PROFILE = [{"sites": 4, "modalities": ["image"]}, {"sites": 6, "modalities": ["text", "audio"]}]


def near(shares: np.ndarray, rate, count) -> bool:
    """Whether shares of ``count`` independent samples are as Bernoulli's: within five standard deviations."""
    rate, count = np.asarray(rate, dtype=float), np.asarray(count, dtype=float)
    return bool((np.abs(shares - rate) <= 5 * np.sqrt(rate * (1 - rate) / count) + 1e-12).all())


def lost(masks: np.ndarray) -> np.ndarray:
    return 1 - masks.mean(axis=0)


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
    left_out = {empty: allocate(toy_set(), config(keys, empty=empty)).left_out["train"] for empty in sizes}
    assert left_out == {empty: 600 - size for empty, size in sizes.items()}


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


# ------------------------------------------------------------------------------------------- rates of sites and classes
SITES, CLASSES = tuple(f"site-{index:04d}" for index in range(4)), ("a", "b", "c")


def rated(level="sample", *, empty="allow", seed=0, **keys) -> Scheme:
    return Scheme(MissingTrain(level=level, **keys), empty, NAMES, "train", seed, SITES, CLASSES)


def traits(count: int = 60000) -> Traits:
    """Every site has samples of every class."""
    return Traits(np.arange(count) % 4, np.arange(count) // 4 % 3)


def test_without_rates_of_their_own_the_traits_of_samples_do_not_matter():
    keys = {"rate": {"image": 0.4, "text": 0.7}}
    with_traits = sample_masks(rated(**keys), everything(60000), traits=traits())
    assert np.array_equal(with_traits, sample_masks(rated(**keys), everything(60000)))


def test_samples_are_lost_at_the_rate_of_their_site():
    own = {"site-0001": 0.9, "site-0003": {"text": 0.5}}
    masks, owner = sample_masks(rated(rate=0.2, sites=own), everything(60000), traits=traits()), traits().owner
    for site, rate in enumerate([[0.2] * 3, [0.9] * 3, [0.2] * 3, [0.0, 0.5, 0.0]]):
        assert near(lost(masks[owner == site]), rate, 15000)


def test_samples_are_lost_at_the_rate_of_their_class_and_the_others_as_before():
    own = {"b": 0.8, "c": {"audio": 1.0}}
    before = sample_masks(rated(rate=0.3), everything(60000), traits=traits())
    masks, labels = sample_masks(rated(rate=0.3, classes=own), everything(60000), traits=traits()), traits().labels
    assert np.array_equal(masks[labels == 0], before[labels == 0])
    for label, rate in enumerate([[0.3] * 3, [0.8] * 3, [0.0, 0.0, 1.0]]):
        assert near(lost(masks[labels == label]), rate, 20000)


def scheme_of_both() -> Scheme:
    return rated(rate=0.1, sites={"site-0001": 0.5, "site-0002": {"text": 0.6}}, classes={"b": {"image": 0.9}})


def test_the_rate_of_the_class_counts_then_that_of_the_site_then_rate():
    found = sample_rates(scheme_of_both(), Traits(np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])))
    assert found.tolist() == [[0.1] * 3, [0.5] * 3, [0.0, 0.6, 0.0], *[[0.9, 0.0, 0.0]] * 3]


def test_a_sample_of_several_classes_has_the_highest_rate_of_each_modality():
    labels = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]])
    scheme = rated(rate=0.2, sites={"site-0003": 0.4}, classes={"b": {"image": 0.9}, "c": 0.3})
    found = sample_rates(scheme, Traits(np.array([0, 0, 0, 0, 0, 3]), labels))
    assert found[0].tolist() == found[1].tolist() == [0.2] * 3
    assert found[2].tolist() == [0.9, 0.0, 0.0]
    assert found[3].tolist() == [0.9, 0.2, 0.2]
    assert found[4].tolist() == [0.9, 0.3, 0.3]
    assert found[5].tolist() == [0.4] * 3


def test_classes_that_together_leave_nothing_to_redraw_are_refused():
    keys = {"classes": {"a": {"image": 1.0, "text": 1.0}, "b": {"audio": 1.0}}}
    both, apart = np.array([[1, 1, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
    with pytest.raises(ConfigError, match=r"missing\.train\.classes: .*redraw.*a sample of several classes"):
        sample_rates(rated(empty="redraw", **keys), Traits(np.zeros(1, dtype=int), both))
    assert sample_rates(rated(empty="redraw", **keys), Traits(np.zeros(2, dtype=int), apart)).max() == 1
    assert sample_rates(rated(empty="skip", **keys), Traits(np.zeros(1, dtype=int), both)).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"sites": {"site-0001": 1.0}}, "sites.site-0001"),
        ({"classes": {"a": dict.fromkeys(NAMES, 1.0)}}, "classes.a"),
    ],
)
def test_a_rate_of_its_own_that_leaves_nothing_to_redraw_is_refused(keys, key):
    with pytest.raises(ConfigError, match=rf"missing\.train\.{key}: with missing\.empty: redraw .*found 1\.0 for all"):
        sample_masks(rated(empty="redraw", **keys), everything(60000), traits=traits())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sites": {"site-4": 0.5}}, r"sites: expected sites of the run \(site-0000, .*site-0003\), found 'site-4'"),
        ({"classes": {"d": 0.5}}, r"classes: expected classes of the data set \(a, b, c\), found 'd'"),
        ({"sites": {"site-0001": {"video": 0.5}}}, r"sites\.site-0001: expected modalities .*\(image, text, audio\)"),
        ({"classes": {"b": {"video": 0.5}}}, r"classes\.b: expected modalities .*\(image, text, audio\)"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(keys, words):
    with pytest.raises(ConfigError, match=rf"missing\.train\.{words}"):
        sample_masks(rated(**keys), everything(60000), traits=traits())


def test_of_many_known_sites_the_first_are_named():
    with pytest.raises(ConfigError) as caught:
        allocate(toy_set(), config({"level": "site", "sites": {"mars": 0.5}}, count=50))
    assert "site-0007, ... 50 in all), found 'mars'" in str(caught.value)
    assert "site-0008" not in str(caught.value)


def test_sites_lose_modalities_at_their_own_rate_and_the_others_as_before():
    own = dict.fromkeys(SITES[2:], 0.9)
    drawn = [site_masks(rated("site", rate=0.3, sites=own, seed=seed), everything(4)) for seed in range(2000)]
    before = [site_masks(rated("site", rate=0.3, seed=seed), everything(4)) for seed in range(2000)]
    shares = 1 - np.mean(drawn, axis=0)
    assert near(shares[:2], 0.3, 2000) and near(shares[2:], 0.9, 2000)
    assert np.array_equal(np.array(drawn)[:, :2], np.array(before)[:, :2])


def test_a_site_with_a_rate_of_zero_lacks_nothing_while_the_others_do():
    train = allocate(toy_set(), config({"level": "site", "rate": 0.8, "sites": {"site-0003": 0.0}})).train
    assert train["site-0003"].present.all()
    assert sum(share.present.all() for share in train.values()) < 4


def test_rates_of_sites_and_classes_reach_the_shares_of_a_run():
    keys = {"level": "sample", "sites": {"site-0002": {"text": 1.0}}, "classes": {"e": {"audio": 1.0}}}
    allocation = allocate(toy_set(), config(keys, test={"level": "sample", "classes": {"a": {"image": 1.0}}}))
    for name, share in allocation.train.items():
        label = share.samples % 6
        assert np.array_equal(share.present[:, 2], label != 4)
        assert np.array_equal(share.present[:, 1], (label == 4) | (name != "site-0002"))
        assert share.present[:, 0].all()
    test = allocation.test["server"]
    assert np.array_equal(test.present[:, 0], test.samples % 6 != 0)
    expected = {"image": 0.0, "text": 0.1 * 5 / 6, "audio": 1 / 6}
    assert allocation.effective_rates["train"] == pytest.approx(expected, abs=0.01)
    assert allocation.effective_rates["test"]["image"] == pytest.approx((test.samples % 6 == 0).mean())


def test_with_rates_by_class_a_mask_still_sees_no_value_and_no_other_label():
    dataset, keys = toy_set(), {"level": "sample", "rate": 0.4, "classes": {"a": 0.9, "b": {"text": 0.2}}}
    first = _by_sample(dataset, config(keys))
    poison = {name: np.full_like(array, np.nan) for name, array in dataset.arrays.items()}
    assert _by_sample(replace(dataset, arrays=poison), config(keys)) == first
    labels = dataset.labels.copy()
    labels[:300] = 2  # a class without a rate of its own, like those from c to f
    relabelled = _by_sample(replace(dataset, labels=labels), config(keys))
    plain = _by_sample(dataset, config({"level": "sample", "rate": 0.4}))
    for sample, mask in relabelled.items():
        assert mask == (plain if labels[sample] >= 2 else first)[sample]


def test_rates_of_sites_and_classes_give_the_same_masks_for_the_same_seed_alone():
    keys = {"level": "sample", "rate": 0.4, "classes": {"a": 0.9}, "sites": {"site-0001": 0.1}}
    first, again = (allocate(toy_set(), config(keys)).mask_sha256 for _ in range(2))
    assert first == again != allocate(toy_set(), config(keys, seed=1)).mask_sha256


# ---------------------------------------------------------------------------------------------- independent of training
INDEPENDENT = {"level": "site", "rate": 0.7, "independent": True}


def site_mask(shares) -> np.ndarray:
    """bool [S, M]: the one mask of each site's samples."""
    for share in shares.values():
        assert (share.present == share.present[0]).all()
    return np.stack([share.present[0] for share in shares.values()])


@pytest.mark.parametrize(
    "train", [{"level": "site", "rate": 0.2}, {"level": "profile", "profile": PROFILE}, {"level": "coupled"}]
)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_independent_masks_are_those_of_the_split_whatever_the_training_has(train, split):
    allocation = allocate(toy_set(), config(train, where="sites", **{split: INDEPENDENT}))
    alone = allocate(toy_set(), config(where="sites", **{split: {**INDEPENDENT, "independent": False}}))
    found = site_mask(getattr(allocation, split))
    assert np.array_equal(found, site_mask(getattr(alone, split)))
    assert not np.array_equal(found, site_mask(allocation.train) if train["level"] == "site" else found * 0)


def test_independent_masks_have_their_own_rate_and_do_not_follow_those_of_training():
    train, test = {"level": "site", "rate": 0.3}, {**INDEPENDENT, "rate": 0.6}
    runs = [
        allocate(toy_set(), config(train, where="sites", empty="allow", test=test, seed=seed)) for seed in range(60)
    ]
    trained = np.concatenate([site_mask(run.train) for run in runs])
    tested = np.concatenate([site_mask(run.test) for run in runs])
    assert near(lost(trained), 0.3, 600) and near(lost(tested), 0.6, 600)
    assert abs(np.corrcoef(trained.ravel(), tested.ravel())[0, 1]) < 5 / np.sqrt(trained.size)


def test_validation_and_test_do_not_share_their_independent_masks():
    run = config({"level": "site", "rate": 0.3}, where="sites", validation=INDEPENDENT, test=INDEPENDENT)
    allocation = allocate(toy_set(), run)
    assert not np.array_equal(site_mask(allocation.validation), site_mask(allocation.test))


def test_independent_masks_are_drawn_anew_in_each_draw():
    run = config({"level": "site", "rate": 0.3}, where="sites", test={**INDEPENDENT, "draws": 3})
    shares = allocate(toy_set(), run).test
    blocks = [np.stack([share.present.reshape(3, -1, 3)[draw, 0] for share in shares.values()]) for draw in range(3)]
    assert not np.array_equal(blocks[0], blocks[1]) and not np.array_equal(blocks[1], blocks[2])
    once = config({"level": "site", "rate": 0.3}, where="sites", test=INDEPENDENT)
    assert np.array_equal(blocks[0], site_mask(allocate(toy_set(), once).test))


def test_an_independent_profile_is_its_own_and_may_have_rates_of_sites():
    other = [{"sites": 10, "modalities": ["audio"]}]
    run = config(
        {"level": "profile", "profile": PROFILE},
        where="sites",
        validation={"level": "profile", "profile": other, "independent": True},
        test={**INDEPENDENT, "rate": 0.0, "sites": {"site-0001": {"text": 1.0}}},
    )
    allocation = allocate(toy_set(), run)
    assert (site_mask(allocation.validation) == [False, False, True]).all()
    expected = np.ones((10, 3), dtype=bool)
    expected[1, 1] = False
    assert np.array_equal(site_mask(allocation.test), expected)


def test_rates_of_sites_that_contradict_the_training_masks_are_refused_and_the_same_ones_are_not():
    own = {"site-0001": 0.9}
    train = {"level": "site", "rate": 0.6, "sites": own}
    run = config(train, where="sites", test={"level": "site", "sites": {"site-0001": 0.1}})
    with pytest.raises(ConfigError, match=r"missing\.test\.sites: .*their training masks.*test\.independent: true"):
        allocate(toy_set(), run)
    same = allocate(toy_set(), config(train, where="sites", test=train))
    assert np.array_equal(site_mask(same.test), site_mask(same.train))


# ---------------------------------------------------------------------------------------------------- real missingness
@pytest.mark.parametrize(
    "keys",
    [
        {"level": "none"},
        {"level": "coupled"},
        {"level": "profile", "profile": PROFILE},
        {"level": "site", "rate": 0.6},
        {"level": "site", "rate": 0.2, "sites": {"site-0001": 0.9, "site-0002": {"text": 0.0, "audio": 1.0}}},
        {"level": "sample", "rate": 0.6},
        {"level": "sample", "rate": 0.2, "classes": {"a": 0.9, "d": {"image": 1.0}}},
        {"level": "sample", "rate": 0.2, "classes": {"a": 0.9}, "sites": {"site-0003": {"text": 0.0, "audio": 1.0}}},
    ],
    ids=lambda keys: "-".join([keys["level"], *(key for key in ("sites", "classes") if key in keys)]),
)
def test_at_every_level_and_with_every_option_what_does_not_exist_is_never_shown(keys):
    dataset = toy_set(lacking="text")
    held_out = {**keys, "independent": True} if keys["level"] in ("site", "profile") else keys
    run = config(keys, where="sites", validation=held_out, test=held_out)
    allocation = allocate(dataset, run)
    for share in (*allocation.train.values(), *allocation.validation.values(), *allocation.test.values()):
        assert not (share.present & ~dataset.exists()[share.samples]).any()
        assert share.present.any(axis=1).all()
    assert all(sum(len(s.samples) for s in shares.values()) for shares in (allocation.validation, allocation.test))


def test_rates_draw_among_what_exists_alone():
    dataset, own = toy_set(train=6000, lacking="text"), {"a": 0.8, "b": {"text": 1.0}}
    masks = _by_sample(dataset, config({"level": "sample", "rate": 0.3, "classes": own}, empty="allow"))
    shown, exists = np.array([masks[sample] for sample in range(6000)]), dataset.exists()[:6000]
    for label, rate in enumerate([[0.8] * 3, [0.0, 1.0, 0.0], [0.3] * 3]):
        for column in range(3):
            there = (dataset.labels[:6000] == label) & exists[:, column]
            assert near(np.array(1 - shown[there, column].mean()), rate[column], there.sum()) if there.any() else True


def test_a_modality_that_a_site_has_in_no_sample_is_not_what_a_redraw_keeps():
    dataset = toy_set()
    rows = {**dataset.rows, "text": np.full(800, -1), "audio": np.full(800, -1)}
    lacking = replace(dataset, rows=rows)
    keys = {"level": "site", "rate": 0.9, "sites": {"site-0001": {"image": 0.95, "text": 0.0}}}
    run = config(keys, where="sites", test={**keys, "independent": True})
    allocation = allocate(lacking, run)
    for share in (*allocation.train.values(), *allocation.test.values()):
        assert share.present[:, 0].all() and not share.present[:, 1:].any()


# -------------------------------------------------------------------------------------------------------------- kept
KEPT = {
    "none": "86b32a305f27aab9",
    "site": "76c9834b054bf02a",
    "sample": "c137ec3c92280113",
    "coupled": "2b10e45a91c3d904",
    "profile": "4e11bc121dde974c",
}
"""Level -> the first digits of ``mask_sha256`` before sites, classes and evaluations could have rates of their own."""


@pytest.mark.parametrize("level", KEPT)
def test_masks_of_configs_without_the_newer_keys_stay_what_they_were(level):
    keys = {"none": {}, "coupled": {}, "profile": {"profile": PROFILE}}.get(level, {"rate": 0.6})
    test = {"level": "sample", "rate": {"image": 0.3, "text": 0.9}, "draws": 2}
    run = config({"level": level, **keys}, where="sites", seed=3, validation={"level": level, **keys}, test=test)
    assert allocate(toy_set(lacking="text"), run).mask_sha256[:16] == KEPT[level]

"""Who holds which samples: the partition schemes, and the allocation that puts them to use."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedrecon_core.config import Params, RunConfig, StrategyParams, parse
from fedrecon_core.data.allocation import Allocation, Share, allocate, site_name
from fedrecon_core.data.dataset import Dataset, load_dataset
from fedrecon_core.data.partitions.base import owners
from fedrecon_core.data.partitions.sharded import draw_shards
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.preparation.simulated_sites import federation_config
from fedrecon_core.registry import CORE_PACKAGES, PARTITIONS, RECOVERIES, STRATEGIES, discover
from fedrecon_core.types import SPLITS, DatasetSpec, ModalitySpec
from tests.helpers import runs
from tests.helpers.toy import toy_config

discover(CORE_PACKAGES)
NAMES = ("image", "text", "audio")
LABELS = np.random.default_rng(0).integers(0, 7, 900)
NATURALS = np.random.default_rng(1).integers(0, 60, 900) * 10 + 3
FIXED = [name for name, cls in PARTITIONS.items() if cls().fixed_sites(cls.Params(name=name), NATURALS)]
FREE = [name for name in PARTITIONS.names() if name not in FIXED]


@pytest.fixture(autouse=True, scope="module")
def toys():
    for registry, params in ((RECOVERIES, Params), (STRATEGIES, StrategyParams)):
        registry.register("toy")(type("Toy", (), {"Params": params}))
    yield
    for registry in (RECOVERIES, STRATEGIES):
        registry.forget("toy")


def assign(name: str, sites: int = 8, seed: int = 2**62 + 1, labels=LABELS, natural_ids=NATURALS, **keys) -> np.ndarray:
    cls = PARTITIONS.get(name)
    return cls().assign(cls.Params(name=name, **keys), labels, natural_ids, sites, seed)


def count_of(name: str) -> int:
    """A number of sites that the scheme deals the samples here to."""
    cls = PARTITIONS.get(name)
    return (cls().fixed_sites(cls.Params(name=name), NATURALS) or (8,))[0]


def toy_set(train: int = 600) -> Dataset:
    """Six classes; the ids 0 to 39 are the subjects of the training samples, the held-out ones have others."""
    count = train + 200
    split = np.repeat([0, 1, 2], [train, 100, 100])
    return Dataset(
        spec=DatasetSpec(
            name="toy",
            modalities=tuple(ModalitySpec(name=name, kind="vector", shape=(1,)) for name in NAMES),
            classes=tuple("abcdef"),
        ),
        labels=np.random.default_rng(2).permutation(count) % 6,
        ids=np.arange(count) + 1000,
        split=split,
        cluster_ids=np.where(split == 0, np.arange(count) % 40, 100 + np.arange(count) % 20),
        arrays={name: np.zeros((count, 1), dtype=np.float32) for name in NAMES},
        rows={name: np.arange(count) for name in NAMES},
    )


def config(*, count=10, where="server", partition="iid", train=None, seed=0) -> RunConfig:
    return parse(
        {
            "seed": seed,
            "data": {"name": "polydigits", "partition": partition},
            "recovery": "toy",
            "strategy": "toy",
            "sites": {"count": count},
            "evaluate": {"where": where},
            "missing": {"train": train or {}},
        }
    )


def held(shares: dict[str, Share]) -> np.ndarray:
    return np.sort(np.concatenate([share.samples for share in shares.values()]))


# ----------------------------------------------------------------------------------------------------------- schemes
@pytest.mark.quick
@pytest.mark.parametrize("name", PARTITIONS.names())
def test_every_scheme_gives_each_sample_one_site_and_the_same_for_the_same_seed(name):
    sites = count_of(name)
    first, second, other = assign(name, sites), assign(name, sites), assign(name, sites, seed=5)
    assert first.dtype == np.int64 and first.shape == LABELS.shape
    assert first.min() >= 0 and first.max() < sites
    assert first.tobytes() == second.tobytes() != other.tobytes()


@pytest.mark.quick
@pytest.mark.parametrize("name", FREE)
def test_every_scheme_gives_a_single_site_everything(name):
    assert not assign(name, sites=1).any()


@pytest.mark.quick
@pytest.mark.parametrize("name", FREE)
def test_every_scheme_refuses_more_sites_than_samples(name):
    with pytest.raises(DataError, match=r"sites\.count: expected at most 20, .*found 21"):
        assign(name, sites=21, labels=LABELS[:20], natural_ids=NATURALS[:20])


@pytest.mark.quick
@pytest.mark.parametrize("name", PARTITIONS.names())
def test_every_scheme_is_silent(name, capfd, recwarn):
    assign(name, count_of(name))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.quick
def test_iid_shares_are_equal_and_shuffled():
    owner = assign("iid")
    sizes = np.bincount(owner)
    assert sizes.max() - sizes.min() <= 1
    assert len(np.unique(owner[:100])) == 8  # the first samples are not all at the first site


@pytest.mark.quick
def test_dirichlet_skews_classes_the_more_the_smaller_alpha():
    def skew(alpha: float) -> float:
        table = np.zeros((8, 7))
        np.add.at(table, (assign("dirichlet", alpha=alpha), LABELS), 1)
        return float((table.max(axis=0) / table.sum(axis=0)).mean())

    assert skew(0.05) > 0.6 > 0.3 > skew(100.0)


@pytest.mark.quick
def test_dirichlet_allows_empty_sites():
    sizes = np.bincount(assign("dirichlet", sites=100, alpha=0.05), minlength=100)
    assert (sizes == 0).any() and sizes.sum() == 900


@pytest.mark.quick
@pytest.mark.parametrize("alpha", [1e-3, 1e4])
def test_dirichlet_loses_no_sample_at_extreme_alpha(alpha):
    assert len(assign("dirichlet", alpha=alpha)) == 900


@pytest.mark.quick
def test_dirichlet_refuses_an_alpha_of_zero():
    with pytest.raises(ConfigError, match=r"alpha"):
        config(partition={"name": "dirichlet", "alpha": 0})


@pytest.mark.quick
def test_natural_keeps_ids_whole_and_deals_equally_many():
    owner = assign("natural")
    sites_of = {natural: set(owner[natural == NATURALS].tolist()) for natural in np.unique(NATURALS)}
    assert all(len(sites) == 1 for sites in sites_of.values())
    ids = np.bincount([next(iter(sites)) for sites in sites_of.values()], minlength=8)
    assert ids.max() - ids.min() <= 1


@pytest.mark.quick
def test_natural_refuses_more_sites_than_ids():
    with pytest.raises(DataError, match=r"sites\.count: expected at most 60, the number of natural ids, found 61"):
        assign("natural", sites=61)


@pytest.mark.quick
def test_natural_ids_of_very_unequal_sizes_stay_whole_each():
    events = np.random.default_rng(3).permutation(np.repeat(np.arange(7), [1, 2, 5, 12, 80, 300, 500]))
    labels = np.arange(900) % 4
    for sites in (3, 7):
        owner = assign("natural", sites, labels=labels, natural_ids=events)
        places = [np.unique(owner[events == event]) for event in range(7)]
        assert all(len(place) == 1 for place in places)
        held = np.bincount(np.concatenate(places), minlength=sites)
        assert held.max() - held.min() <= 1 and held.min() >= 1


# ----------------------------------------------------------------------------------------------------------- sharded
@pytest.mark.quick
def test_sharded_gives_each_natural_id_sites_of_its_own():
    owner = assign("sharded", 60 * 4, shards=4)
    assert np.array_equal(np.unique(NATURALS)[owner // 4], NATURALS)
    assert len(np.unique(owner)) > 120


@pytest.mark.quick
@pytest.mark.parametrize(("keys", "right"), [({}, 300), ({"shards": 1}, 60)])
def test_sharded_reports_the_right_number_of_sites(keys, right):
    shards = keys.get("shards", 5)
    words = rf"sites\.count: expected {right} \(60 natural ids in {shards} shards each\), found 8; set sites\.count"
    with pytest.raises(DataError, match=words):
        assign("sharded", 8, **keys)


@pytest.mark.quick
def test_sharded_skews_classes_within_an_id_the_more_the_smaller_alpha():
    labels, natural_ids = np.arange(6000) % 6, np.arange(6000) // 6 % 10

    def skew(alpha: float) -> float:
        table = np.zeros((50, 6))
        np.add.at(table, (assign("sharded", 50, labels=labels, natural_ids=natural_ids, alpha=alpha), labels), 1)
        held = table.sum(axis=1)
        return float((table.max(axis=1)[held > 0] / held[held > 0]).mean())

    assert skew(0.1) > 0.6 > 0.3 > skew(100.0)


@pytest.mark.quick
@pytest.mark.parametrize("alpha", [0.1, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_sharded_deals_as_the_balanced_dirichlet_partitioner_does(alpha, seed):
    from flwr_datasets.partitioner import DirichletPartitioner

    labels = np.random.default_rng(seed).integers(0, 6, 280)
    keys = {"num_partitions": 5, "partition_by": "value", "alpha": alpha, "min_partition_size": 0}
    expected = owners(
        lambda: DirichletPartitioner(**keys, self_balancing=True, shuffle=False, seed=seed), labels, np.arange(280)
    )
    assert np.array_equal(draw_shards(labels, 5, alpha, np.random.default_rng(seed)), expected)


@pytest.mark.quick
def test_sharded_draws_again_until_each_shard_holds_the_least():
    labels, natural_ids = np.arange(2800) % 6, np.arange(2800) // 280
    keys = {"labels": labels, "natural_ids": natural_ids, "alpha": 0.1}
    assert np.bincount(assign("sharded", 50, **keys), minlength=50).min() < 5
    assert np.bincount(assign("sharded", 50, least=5, **keys), minlength=50).min() >= 5


@pytest.mark.quick
@pytest.mark.parametrize(("alpha", "least"), [(1.0, 4), (1e-6, 2)])
def test_sharded_names_the_id_that_cannot_fill_its_shards(alpha, least):
    labels, natural_ids = np.zeros(35, dtype=np.int64), np.repeat([4, 9], [20, 15])
    words = rf"expected 5 shards of at least {least} samples .* for id [49] with its (15|20) samples"
    with pytest.raises(DataError, match=rf"data\.partition\.least: {words}"):
        assign("sharded", 10, labels=labels, natural_ids=natural_ids, alpha=alpha, least=least)


@pytest.mark.quick
@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_sharded_loses_no_sample_at_extreme_alpha_or_with_fewer_samples_than_shards(alpha):
    natural_ids = np.repeat(np.arange(4), [1, 3, 6, 90])
    owner = assign("sharded", 20, labels=np.arange(100) % 7, natural_ids=natural_ids, alpha=alpha)
    assert np.array_equal(owner // 5, natural_ids)


@pytest.mark.quick
def test_an_id_more_leaves_the_shards_of_the_others():
    few, all_ids = NATURALS < 300, assign("sharded", 300)
    ids = len(np.unique(NATURALS[few]))
    assert np.array_equal(assign("sharded", ids * 5, labels=LABELS[few], natural_ids=NATURALS[few]), all_ids[few])


@pytest.mark.quick
def test_held_out_samples_lie_at_a_shard_of_their_id_in_proportion():
    dataset = toy_set(train=1000)
    test = dataset.members(2)
    dataset.cluster_ids[:1000] = np.arange(1000) // 500
    dataset.cluster_ids[test[:80]] = 1  # a subject of training; the others are not
    run = config(count=8, where="sites", partition={"name": "sharded", "shards": 4, "alpha": 0.3})
    allocation = allocate(dataset, run)
    sizes = np.array([len(share.samples) for share in allocation.train.values()])
    placed = {int(sample): at for at, share in enumerate(allocation.test.values()) for sample in share.samples}
    known = np.bincount([placed[int(sample)] for sample in test[:80]], minlength=8)
    assert known[:4].sum() == 0 and known[sizes == 0].sum() == 0
    assert np.abs(known[4:] / 80 - sizes[4:] / 500).max() < 4 * np.sqrt(0.25 / 80)
    for group in np.unique(dataset.cluster_ids[test[80:]]):
        assert len({placed[int(sample)] for sample in test[80:] if dataset.cluster_ids[sample] == group}) == 1


@pytest.mark.quick
def test_sharded_and_coupled_do_not_go_together():
    with pytest.raises(ConfigError, match=r"missing\.train\.level: coupled .*data\.partition sharded"):
        allocate(toy_set(), config(count=11, train=COUPLED, partition="sharded"))


# -------------------------------------------------------------------------------------------------------- allocation
@pytest.mark.quick
def test_sites_are_named_with_four_digits():
    assert [site_name(index) for index in (0, 42, 12345)] == ["site-0000", "site-0042", "site-12345"]


@pytest.mark.quick
@pytest.mark.parametrize("name", FREE)
def test_training_samples_are_shared_out_once_and_held_out_ones_lie_at_the_server(name):
    dataset = toy_set()
    allocation = allocate(dataset, config(partition=name))
    assert list(allocation.train) == [site_name(index) for index in range(10)]
    assert np.array_equal(held(allocation.train), dataset.members(0))
    assert list(allocation.validation) == list(allocation.test) == ["server"]
    assert np.array_equal(allocation.validation["server"].samples, dataset.members(1))
    assert np.array_equal(allocation.test["server"].samples, dataset.members(2))


@pytest.mark.quick
def test_evaluation_at_the_sites_spreads_the_held_out_samples():
    dataset = toy_set()
    allocation = allocate(dataset, config(where="sites"))
    for part, shares in ((1, allocation.validation), (2, allocation.test)):
        assert list(shares) == list(allocation.train)
        assert np.array_equal(held(shares), dataset.members(part))
        assert {len(share.samples) for share in shares.values()} == {10}


@pytest.mark.quick
def test_held_out_samples_follow_their_natural_id_and_new_ids_stay_whole():
    dataset = toy_set()
    dataset.cluster_ids[dataset.members(2)[:50]] = 7  # a subject that is also in training
    allocation = allocate(dataset, config(where="sites", partition="natural"))
    site = {int(g): name for name, share in allocation.train.items() for g in dataset.cluster_ids[share.samples]}
    places: dict[int, set[str]] = {}
    for name, share in allocation.test.items():
        for group in dataset.cluster_ids[share.samples].tolist():
            places.setdefault(group, set()).add(name)
    assert places[7] == {site[7]}
    assert all(len(names) == 1 for names in places.values())
    assert np.array_equal(held(allocation.test), dataset.members(2))


@pytest.mark.quick
def test_a_new_id_of_validation_and_test_is_at_one_site():
    dataset = toy_set()
    held_out = np.concatenate([dataset.members(1), dataset.members(2)])
    natural_ids = dataset.cluster_ids.copy()
    natural_ids[held_out] = 10_000 + np.arange(len(held_out)) % 40  # speakers that are not in training
    dataset = replace(dataset, natural_ids=natural_ids)
    allocation = allocate(dataset, config(where="sites", partition="natural"))
    places: dict[int, set[str]] = {}
    for shares in (allocation.validation, allocation.test):
        for name, share in shares.items():
            for natural in natural_ids[share.samples].tolist():
                places.setdefault(natural, set()).add(name)
    assert len(places) == 40 and all(len(names) == 1 for names in places.values())
    assert len(set().union(*places.values())) == 10


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), list(enumerate(SPLITS)))
def test_a_split_without_samples_is_reported_as_empty(split, name):
    dataset = toy_set()
    dataset.split[dataset.split == split] = (split + 1) % 3
    words = rf"expected samples in each of the splits train, validation, test, found none in {name}; prepare or import"
    with pytest.raises(DataError, match=words):
        allocate(dataset, config())


@pytest.mark.quick
def test_the_same_config_gives_the_same_hashes_and_each_hash_sees_its_own_half():
    keys = {"level": "sample", "rate": 0.5}
    first, again = (allocate(toy_set(), config(train=keys)) for _ in range(2))
    masked = allocate(toy_set(), config(train={**keys, "rate": 0.6}))
    moved = allocate(toy_set(), config(train=keys, seed=1))
    assert hashes(first) == hashes(again)
    assert masked.partition_sha256 == first.partition_sha256 and masked.mask_sha256 != first.mask_sha256
    assert moved.partition_sha256 != first.partition_sha256


def hashes(allocation: Allocation) -> tuple[str, str]:
    return allocation.partition_sha256, allocation.mask_sha256


@pytest.mark.quick
def test_the_config_is_named_when_there_are_too_few_samples():
    with pytest.raises(DataError, match=r"sites\.count: expected at most 30, .*found 31"):
        allocate(toy_set(train=30), config(count=31))


# ----------------------------------------------------------------------------------------------------------- coupled
COUPLED = {"level": "coupled", "pairs": 0.2, "complete_sites": 2}


@pytest.mark.quick
@pytest.mark.parametrize("name", FREE)
def test_coupled_sites_hold_one_modality_of_one_block_of_classes_in_turn(name):
    dataset = toy_set()
    train = allocate(dataset, config(count=11, train=COUPLED, partition=name)).train
    assert np.array_equal(held(train), dataset.members(0))
    for index in range(9):
        share, kind = train[site_name(index)], index % 3
        assert (share.present == (np.arange(3) == kind)).all()
        assert set(dataset.labels[share.samples]) <= {2 * kind, 2 * kind + 1}


@pytest.mark.quick
def test_the_last_coupled_sites_hold_complete_samples_of_all_classes():
    dataset = toy_set()
    train = allocate(dataset, config(count=11, train=COUPLED)).train
    complete = {name: train[name] for name in ("site-0009", "site-0010")}
    assert len(held(complete)) == 120
    for share in complete.values():
        assert share.present.all()
        assert set(dataset.labels[share.samples]) == set(range(6))


@pytest.mark.quick
def test_coupled_without_pairs_leaves_the_complete_sites_empty():
    train = allocate(toy_set(), config(count=4, train={"level": "coupled", "pairs": 0})).train
    assert [len(share.samples) > 0 for share in train.values()] == [True, True, True, False]


@pytest.mark.quick
def test_coupled_blocks_of_uneven_size_come_in_order():
    dataset = toy_set()
    dataset.labels[:] = dataset.labels % 5
    spec = dataset.spec.model_copy(update={"classes": tuple("abcde")})
    uneven = Dataset(**{**vars(dataset), "spec": spec})
    train = allocate(uneven, config(count=4, train={"level": "coupled"})).train
    assert [set(uneven.labels[train[site_name(index)].samples]) for index in range(3)] == [{0, 1}, {2, 3}, {4}]


@pytest.mark.quick
def test_coupled_needs_a_site_for_each_kind():
    with pytest.raises(ConfigError, match=r"sites\.count: .*expected at least 5, found 4"):
        allocate(toy_set(), config(count=4, train=COUPLED))


@pytest.mark.quick
def test_coupled_needs_a_class_for_each_kind():
    dataset = toy_set()
    few = Dataset(**{**vars(dataset), "spec": dataset.spec.model_copy(update={"classes": ("a", "b")})})
    with pytest.raises(ConfigError, match=r"missing\.train\.level: .*at least 3 classes, found 2"):
        allocate(few, config(train=COUPLED))


@pytest.mark.quick
def test_coupled_names_the_kind_that_has_too_few_samples():
    with pytest.raises(DataError, match=r"sites\.count: .*kind (image|text|audio|complete)"):
        allocate(toy_set(train=40), config(count=40, train={"level": "coupled"}))


# ------------------------------------------------------------------------------------------------------------- scale
@pytest.mark.quick
@pytest.mark.parametrize("keys", [{"level": "site", "rate": 0.6}, COUPLED])
def test_ten_thousand_sites_take_seconds(keys):
    dataset, run = toy_set(train=60000), config(count=10000, where="sites", train=keys)
    start = time.process_time()
    allocation = allocate(dataset, run)
    assert time.process_time() - start < 10  # about 1 s on an idle core
    assert len(held(allocation.train)) == 60000


# --- ``sites.training`` ----------------------------------------------------------------------------------------------


SAMPLES = {"level": "sample", "rate": 0.5}
MISSING = dict.fromkeys(("train", "validation", "test"), SAMPLES)


def training_config(*training: str, **sections) -> RunConfig:
    sites = {"count": 4, **({"training": list(training)} if training else {})}
    return toy_config("mask", **{"sites": sites, "missing": MISSING, **sections})


def allocated(found: RunConfig):
    return allocate(load_dataset(found), found)


@pytest.mark.quick
def test_the_sites_named_hold_what_they_would_hold_anyway_and_the_others_nothing():
    everyone, chosen = allocated(training_config()), allocated(training_config("site-0001", "site-0003"))
    assert list(chosen.train) == list(everyone.train)
    for name, share in chosen.train.items():
        before = everyone.train[name]
        kept = len(before.samples) if name in ("site-0001", "site-0003") else 0
        assert np.array_equal(share.samples, before.samples[:kept])
        assert np.array_equal(share.present, before.present[:kept])
    assert chosen.partition_sha256 != everyone.partition_sha256
    assert chosen.left_out == everyone.left_out


@pytest.mark.quick
def test_held_out_samples_stay_where_they_are_under_the_same_masks():
    sites = {"evaluate": {"where": "sites"}}
    everyone, chosen = allocated(training_config(**sites)), allocated(training_config("site-0002", **sites))
    for split in ("validation", "test"):
        for name, share in getattr(everyone, split).items():
            found = getattr(chosen, split)[name]
            assert np.array_equal(found.samples, share.samples)
            assert np.array_equal(found.present, share.present)


@pytest.mark.quick
def test_an_unknown_site_and_one_without_samples_are_refused():
    with pytest.raises(ConfigError, match=r"sites.training: expected sites \(site-0000, .*\), found 'site-0009'"):
        allocated(training_config("site-0009"))
    empty = {"missing": {"empty": "skip", "train": {"level": "sample", "sites": {"site-0000": 1.0}}}}
    with pytest.raises(DataError, match=r"sites.training: expected sites with training samples, found site-0000"):
        allocated(training_config("site-0000", **empty))


@pytest.mark.quick
def test_complete_are_the_sites_that_hold_every_modality():
    profile = [{"sites": 1, "modalities": ["picture"]}, {"sites": 2, "modalities": ["picture", "features", "steps"]}]
    missing = {"train": {"level": "profile", "profile": [*profile, {"sites": 1, "modalities": ["steps", "features"]}]}}
    found = allocated(training_config(sites={"count": 4, "training": "complete"}, missing=missing)).train
    assert [name for name, share in found.items() if len(share.samples)] == ["site-0001", "site-0002"]
    lone = {"train": {"level": "profile", "profile": [{"sites": 4, "modalities": ["steps"]}]}}
    with pytest.raises(DataError, match=r"found none that has every modality"):
        allocated(training_config(sites={"count": 4, "training": "complete"}, missing=lone))


@pytest.mark.quick
def test_a_deployment_refuses_the_key():
    deployed = {"missing": {}, "data": {"name": "sites"}, "engine": {"name": "deployment"}}
    with pytest.raises(
        ConfigError, match=r"sites.training: expected none in a deployment, found site-0000, site-0002;"
    ):
        training_config("site-0000", "site-0002", **deployed)
    with pytest.raises(ConfigError, match=r"expected none in a deployment, found complete;"):
        training_config(sites={"count": 4, "training": "complete"}, **deployed)


@pytest.mark.quick
@pytest.mark.parametrize("value", ["site-0001", [], [1], {"site-0001": 1}])
def test_what_is_no_list_of_names_is_refused_with_both_forms(value):
    with pytest.raises(ConfigError, match=r"sites.training: expected a list of site names, or complete, found"):
        training_config(sites={"count": 4, "training": value})


@pytest.mark.quick
def test_the_federation_of_split_sites_can_be_deployed():
    over_folders = federation_config(training_config("site-0001"))
    assert parse({**over_folders, "engine": {"name": "deployment"}}).sites.training is None


def test_a_run_trains_the_named_site_alone(tmp_path: Path):
    sites = {"count": 3, "training": ["site-0002"]}
    directory = runs.run(tmp_path, runs.settings(sites=sites, recovery="mask", rounds=2))
    lines = runs.lines(directory, "sites.jsonl")
    assert {line["site"] for line in lines if line["samples"]} == {"site-0002"}
    assert runs.result(directory)["status"] == "completed"

"""``sites.training``: some sites train, the others only keep their held-out samples."""

from pathlib import Path

import numpy as np
import pytest

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.preparation.simulated_sites import federation_config
from tests.helpers import runs
from tests.helpers.toy import toy_config

SAMPLES = {"level": "sample", "rate": 0.5}
MISSING = dict.fromkeys(("train", "validation", "test"), SAMPLES)


def config(*training: str, **sections) -> RunConfig:
    sites = {"count": 4, **({"training": list(training)} if training else {})}
    return toy_config("mask", **{"sites": sites, "missing": MISSING, **sections})


def allocated(found: RunConfig):
    return allocate(load_dataset(found), found)


@pytest.mark.quick
def test_the_sites_named_hold_what_they_would_hold_anyway_and_the_others_nothing():
    everyone, chosen = allocated(config()), allocated(config("site-0001", "site-0003"))
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
    everyone, chosen = allocated(config(**sites)), allocated(config("site-0002", **sites))
    for split in ("validation", "test"):
        for name, share in getattr(everyone, split).items():
            found = getattr(chosen, split)[name]
            assert np.array_equal(found.samples, share.samples)
            assert np.array_equal(found.present, share.present)


@pytest.mark.quick
def test_an_unknown_site_and_one_without_samples_are_refused():
    with pytest.raises(ConfigError, match=r"sites.training: expected sites \(site-0000, .*\), found 'site-0009'"):
        allocated(config("site-0009"))
    empty = {"missing": {"empty": "skip", "train": {"level": "sample", "sites": {"site-0000": 1.0}}}}
    with pytest.raises(DataError, match=r"sites.training: expected sites with training samples, found site-0000"):
        allocated(config("site-0000", **empty))


@pytest.mark.quick
def test_complete_are_the_sites_that_hold_every_modality():
    profile = [{"sites": 1, "modalities": ["picture"]}, {"sites": 2, "modalities": ["picture", "features", "steps"]}]
    missing = {"train": {"level": "profile", "profile": [*profile, {"sites": 1, "modalities": ["steps", "features"]}]}}
    found = allocated(config(sites={"count": 4, "training": "complete"}, missing=missing)).train
    assert [name for name, share in found.items() if len(share.samples)] == ["site-0001", "site-0002"]
    lone = {"train": {"level": "profile", "profile": [{"sites": 4, "modalities": ["steps"]}]}}
    with pytest.raises(DataError, match=r"found none that holds every modality"):
        allocated(config(sites={"count": 4, "training": "complete"}, missing=lone))


@pytest.mark.quick
def test_a_deployment_refuses_the_key():
    deployed = {"missing": {}, "data": {"name": "sites"}, "engine": {"name": "deployment"}}
    with pytest.raises(
        ConfigError, match=r"sites.training: expected none in a deployment, found site-0000, site-0002;"
    ):
        config("site-0000", "site-0002", **deployed)
    with pytest.raises(ConfigError, match=r"expected none in a deployment, found complete;"):
        config(sites={"count": 4, "training": "complete"}, **deployed)


@pytest.mark.quick
@pytest.mark.parametrize("value", ["site-0001", [], [1], {"site-0001": 1}])
def test_what_is_no_list_of_names_is_refused_with_both_forms(value):
    with pytest.raises(ConfigError, match=r"sites.training: expected a list of site names, or complete, found"):
        config(sites={"count": 4, "training": value})


@pytest.mark.quick
def test_the_federation_of_split_sites_can_be_deployed():
    over_folders = federation_config(config("site-0001"))
    assert parse({**over_folders, "engine": {"name": "deployment"}}).sites.training is None


def test_a_run_trains_the_named_site_alone(tmp_path: Path):
    sites = {"count": 3, "training": ["site-0002"]}
    directory = runs.run(tmp_path, runs.settings(sites=sites, recovery="mask", rounds=2))
    lines = runs.lines(directory, "sites.jsonl")
    assert {line["site"] for line in lines if line["samples"]} == {"site-0002"}
    assert runs.result(directory)["status"] == "completed"

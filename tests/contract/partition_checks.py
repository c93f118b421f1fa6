"""What every partition scheme promises. Each check takes a registered name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.registry import PARTITIONS
from tests.helpers.toy import toy_config

LABELS = (np.arange(60) % 3).astype(np.int64)
NATURALS = (np.arange(60) // 3).astype(np.int64)


def counts(name: str, *wanted: int) -> tuple[int, ...]:
    """Numbers of sites for the samples here: the ``wanted`` ones, or the only one that the scheme deals to."""
    cls: Any = PARTITIONS.get(name)
    fixed = cls().fixed_sites(cls.Params(name=name), NATURALS)
    return (fixed[0],) if fixed else wanted


def assign(
    name: str, sites: int, seed: int = 0, labels: IntArray = LABELS, natural_ids: IntArray = NATURALS
) -> IntArray:
    """The site of each sample under default keys."""
    cls: Any = PARTITIONS.get(name)
    owner: IntArray = cls().assign(cls.Params(name=name), labels, natural_ids, sites, seed)
    return owner


def check_config_takes_it_by_name(name: str) -> None:
    config = toy_config("mask", data={"name": "toy", "partition": name})
    assert config.data.partition == PARTITIONS.get(name).Params(name=name)


def check_every_sample_lies_at_exactly_one_site(name: str) -> None:
    for sites in counts(name, 1, 2, 7, 20):
        owner = assign(name, sites)
        assert owner.dtype == np.int64 and owner.shape == LABELS.shape
        assert owner.min() >= 0 and owner.max() < sites


def check_draws_depend_on_the_seed_alone(name: str) -> None:
    (sites,) = counts(name, 5)
    np.random.seed(1)
    first = assign(name, sites)
    np.random.seed(2)
    assert np.array_equal(assign(name, sites), first)
    assert any(not np.array_equal(assign(name, sites, seed), first) for seed in range(1, 4))


def check_leaves_its_arguments_alone(name: str) -> None:
    labels, natural_ids = LABELS.copy(), NATURALS.copy()
    assign(name, *counts(name, 5), labels=labels, natural_ids=natural_ids)
    assert np.array_equal(labels, LABELS) and np.array_equal(natural_ids, NATURALS)


def check_natural_ids_stay_together_where_it_says_so(name: str) -> None:
    if PARTITIONS.get(name).keeps_natural_ids:
        owner = assign(name, *counts(name, 7))
        assert all(len(set(owner[natural == NATURALS])) == 1 for natural in np.unique(NATURALS))


def check_more_sites_than_samples_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match=r"sites\.count"):
        assign(name, 61)


def check_a_fixed_number_of_sites_is_reported(name: str) -> None:
    for sites in counts(name):
        with pytest.raises(DataError, match=rf"sites\.count: expected {sites} .*found {sites + 1}; "):
            assign(name, sites + 1)


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]

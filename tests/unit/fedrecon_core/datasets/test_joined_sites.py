"""Site folders as one data set: whether sites share a numbering, and what that means for groups and natural ids."""

from dataclasses import replace

import numpy as np
import pytest

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.sites import joined
from fedrecon_core.errors import DataError
from tests.helpers.toy import tiny_dataset

pytestmark = pytest.mark.quick
COUNT = 96


def sites(**south) -> dict[str, Dataset]:
    """Two sites; the southern one's ids and groups go on where the northern one's end, but for what is given."""
    north, other = tiny_dataset(), tiny_dataset(seed=1)
    shared = {"ids": north.ids + COUNT, "cluster_ids": north.cluster_ids + COUNT}
    return {"south": replace(other, **{**shared, **south}), "north": north}


def test_sites_that_share_a_numbering_keep_it():
    both = sites()
    found = joined(both)
    for column in ("ids", "cluster_ids", "natural_ids"):
        expected = [getattr(both[name], column) for name in ("north", "south")]
        assert np.array_equal(getattr(found, column), np.concatenate(expected))


def test_a_group_may_lie_at_several_sites_in_one_split():
    north = tiny_dataset()
    found = joined(sites(cluster_ids=north.cluster_ids))
    assert np.array_equal(found.cluster_ids, np.tile(north.cluster_ids, 2))


def test_a_group_that_trains_at_one_site_and_is_tested_at_another_is_refused():
    groups = tiny_dataset().cluster_ids + COUNT
    groups[-4:] = 3  # of the test split; group 3 trains in the north
    words = r"expected each group in one split, found group 3 in train at north and in test at south, which leaks"
    with pytest.raises(DataError, match=words):
        joined(sites(cluster_ids=groups))


def test_a_protocol_with_faults_may_have_such_groups_and_its_faults_are_told():
    groups = tiny_dataset().cluster_ids + COUNT
    groups[-4:] = 3
    assert joined(sites(cluster_ids=groups, faults=("windows overlap", "a first one"))).faults == (
        "a first one",
        "windows overlap",
    )


def test_sites_that_number_for_themselves_have_groups_and_people_of_their_own():
    north = tiny_dataset()
    both = {
        "a": replace(north, natural_ids=7 * (np.arange(COUNT) % 5)),
        "b": replace(north, split=north.split[::-1].copy(), natural_ids=7 * (np.arange(COUNT) % 3)),
    }
    found = joined(both)
    assert np.array_equal(found.cluster_ids, np.concatenate([north.cluster_ids, north.cluster_ids + COUNT // 4]))
    assert np.array_equal(found.natural_ids, np.concatenate([np.arange(COUNT) % 5, 5 + np.arange(COUNT) % 3]))
    assert np.array_equal(found.ids, np.tile(north.ids, 2))  # beside the group an id is still unique
    assert len(np.unique(np.stack([found.cluster_ids, found.ids]), axis=1).T) == 2 * COUNT


def test_a_test_sample_under_several_masks_does_not_make_a_numbering_of_its_own():
    ids, groups = tiny_dataset().ids + COUNT, tiny_dataset().cluster_ids
    ids[-12:] = np.repeat(ids[-12::4], 4)
    assert np.array_equal(joined(sites(ids=ids, cluster_ids=groups)).cluster_ids, np.tile(groups, 2))


def test_a_site_that_holds_nothing_changes_nothing():
    both = sites()
    north, none = both["north"], np.zeros(0, dtype=np.int64)
    empty = replace(
        north,
        labels=none,
        ids=none,
        split=none,
        cluster_ids=none,
        arrays={name: array[:0] for name, array in north.arrays.items()},
        rows=dict.fromkeys(north.rows, none),
        offsets={"steps": np.zeros(1, dtype=np.int64)},
    )
    for sharing in (both, {"north": north, "south": north}):
        found = joined({**sharing, "east": empty})
        assert np.array_equal(found.cluster_ids, joined(sharing).cluster_ids)

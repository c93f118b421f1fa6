"""The site folder: what is written comes back, mapped; every fault is explained; a change is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_data import open_site, open_split
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_folder.samples import Samples, write_samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.data.statistics import combine, scaled, site_sums
from fedrecon_core.datasets.sites import Sites, SitesParams, joined
from fedrecon_core.errors import DataError
from tests.helpers.folders import content
from tests.helpers.processes import files_end_at
from tests.helpers.toy import tiny_dataset

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")
TOY = tiny_dataset(12, 8, scale="standard")


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "north", content(TOY))
    return tmp_path / "north"


def gaps() -> np.ndarray:
    return np.random.default_rng(0).random((len(TOY.labels), len(TOY.spec.names))) < 0.6


def test_a_site_sees_in_its_folder_what_the_simulation_would_deal_it(tmp_path):
    present = gaps()
    write_folder(tmp_path / "north", content(TOY, present))
    found = open_folder(tmp_path / "north")
    for split, name in enumerate(("train", "validation", "test")):
        members = TOY.members(split)
        members = members[present[members].any(axis=1)]
        dealt = open_site(TOY, members, present[members], device=CPU)
        own = open_split(found, name, device=CPU, keep_empty=False)
        assert site_sums(own) == site_sums(dealt)
        statistics = combine([site_sums(dealt)])
        everything = torch.arange(len(dealt))
        ours, theirs = (scaled(data, statistics).batch(everything) for data in (own, dealt))
        assert torch.equal(ours.present, theirs.present)
        for modality, rows in theirs.inputs.items():
            assert torch.equal(ours.inputs[modality].values, rows.values)
            assert torch.equal(ours.inputs[modality].index, rows.index)


def test_arrays_stay_on_the_disk(folder):
    assert isinstance(open_folder(folder).arrays[TOY.spec.names[0]], np.memmap)


def test_a_changed_folder_is_refused_until_it_is_checked_again(folder):
    assert check_folder(folder) == []
    array = folder / "arrays" / f"{TOY.spec.names[0]}.npy"
    values = np.load(array)
    np.save(array, values + 1)
    with pytest.raises(DataError, match=r"changed since it was checked .*fedrecon data check"):
        open_folder(folder)
    [fault] = check_folder(folder)
    assert "SHA-256" in fault
    assert "fedrecon data seal" in fault
    assert seal_folder(folder) == []
    assert np.array_equal(open_folder(folder).arrays[TOY.spec.names[0]][:1], values[:1] + 1)


def test_a_specification_that_was_written_by_hand_outlives_a_seal_that_breaks_off(folder):
    path = folder / "dataset.yaml"
    path.write_text("# by hand\n" + path.read_text())
    written = path.read_text()
    with files_end_at(512):
        [fault] = seal_folder(folder)
    assert fault == f"{folder} cannot be sealed: File too large; dataset.yaml was not changed"
    assert path.read_text() == written
    assert sorted(found.name for found in folder.iterdir()) == [".checked", "arrays", "dataset.yaml", "samples.parquet"]


def test_a_check_that_breaks_off_leaves_the_folder_as_it_was(folder):
    with files_end_at(10):
        [fault] = check_folder(folder)
    assert "the result of the check cannot be written: File too large" in fault
    assert len(open_folder(folder).labels) == len(TOY.labels)
    assert len(list((folder / ".checked").iterdir())) == 2


def broken_array(folder, change):
    path = folder / "arrays" / "picture.npy"
    np.save(path, change(np.load(path)))


def rewritten(folder, **fields):
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


def with_nan(array: np.ndarray) -> np.ndarray:
    array[3] = np.nan
    return array


FAULTS = {
    "nan": (lambda f: broken_array(f, with_nan), "NaN or infinity in row 3"),
    "rows": (lambda f: broken_array(f, lambda a: a[:-1]), "expected 28 rows"),
    "dtype": (lambda f: broken_array(f, lambda a: a.astype(np.float64)), "expected float32"),
    "gone": (lambda f: (f / "arrays" / "picture.npy").unlink(), "restore it"),
    "stray": (lambda f: (f / "arrays" / "extra.npy").write_bytes(b"x"), "found a file of another name"),
    "classes": (lambda f: rewritten(f, classes=["only"]), "column label: expected 0 to 0"),
    "key": (lambda f: rewritten(f, colour="red"), "colour"),
    "yaml": (lambda f: (f / "dataset.yaml").write_text("{"), "is not valid YAML"),
    "table": (lambda f: (f / "samples.parquet").write_bytes(b"nothing"), "expected a Parquet table"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_explained(folder, name):
    change, words = FAULTS[name]
    change(folder)
    faults = check_folder(folder)
    assert any(words in fault for fault in faults), faults
    assert all(str(folder) in fault for fault in faults)


def test_groups_that_straddle_splits_and_repeated_ids_are_faults(tmp_path):
    plain = content(TOY)
    samples = plain.samples
    same = np.zeros_like(samples.ids)
    torn = Samples(same, samples.labels, samples.split, same, samples.present)
    write_folder(tmp_path / "north", plain)
    write_samples(tmp_path / "north" / "samples.parquet", plain.spec, torn)
    faults = " ".join(check_folder(tmp_path / "north"))
    assert "column id: expected each training sample once, found 0" in faults
    assert (
        "column group: expected each group in one split, found 0 in several, which leaks held-out data into training"
        in faults
    )


def test_a_folder_of_site_folders_is_one_data_set_with_owners(tmp_path):
    present = gaps()
    write_folder(tmp_path / "b", content(TOY, present))
    write_folder(tmp_path / "a", content(TOY))
    found = Sites().load(SitesParams(name="sites"), tmp_path, 0)
    assert found.sites == ("a", "b")
    assert found.owner is not None
    count = len(TOY.labels)
    assert found.owner.tolist() == [0] * count + [1] * count
    whole = open_site(found, np.arange(count, 2 * count), found.exists()[count:], device=CPU)
    alone = open_site(open_folder(tmp_path / "b"), np.arange(count), present, device=CPU)
    for name in TOY.spec.names:
        assert torch.equal(whole.arrays[name].values, alone.arrays[name].values)


def test_an_unchecked_folder_and_an_empty_root_are_refused_in_words(folder, tmp_path):
    (folder / ".checked" / "stamp.json").unlink()
    with pytest.raises(DataError, match="has not been checked; run `fedrecon data check"):
        open_folder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected folders that contain a dataset\.yaml"):
        Sites().load(SitesParams(name="sites"), tmp_path / "empty", 0)


def straddling(faults: tuple[str, ...]) -> FolderContent:
    """The toy, with one group in two splits."""
    whole = content(TOY)
    groups = whole.samples.cluster_ids.copy()
    groups[TOY.members(1)[0]] = groups[TOY.members(0)[0]]
    torn = replace(whole.samples, cluster_ids=groups)
    return replace(whole, samples=torn, faults=faults)


def test_faults_of_a_protocol_are_declared_checked_sealed_and_opened(tmp_path):
    folder, faults = tmp_path / "north", ("protocol x: validation straddles: its scores are too high.", "another")
    write_folder(folder, straddling(faults))
    assert check_folder(folder) == [] and open_folder(folder).faults == faults
    assert yaml.safe_load((folder / "dataset.yaml").read_text())["faults"] == [*faults]
    assert seal_folder(folder) == [] and open_folder(folder).faults == faults
    assert open_folder(folder).spec == TOY.spec


@pytest.mark.parametrize("faults", ['["two\\nlines"]', '[""]', "[1]"])
def test_faults_are_lines_of_text(folder, faults):
    path = folder / "dataset.yaml"
    path.write_text(path.read_text() + f"faults: {faults}\n")
    [fault] = check_folder(folder)
    assert "dataset.yaml: faults" in fault and "\n" not in fault


def test_groups_that_straddle_undeclared_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"column group: expected each group in one split, found .*, which leaks"):
        write_folder(tmp_path / "north", straddling(()))
    assert not (tmp_path / "north").exists()


def test_a_single_site_folder_as_root_is_explained(folder):
    with pytest.raises(
        DataError, match="expected a folder of site folders, found a single site folder; name the folder"
    ):
        Sites().load(SitesParams(name="sites"), folder, 0)


# --- site folders as one data set ------------------------------------------------------------------------------------


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


def test_a_protocol_with_faults_may_have_such_groups_and_its_faults_are_reported():
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

"""CrisisMMD from its official files: which pictures, with which texts; tweets stay whole; the benchmark's fault; each
fault of the files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.crisismmd import CrisisMmd, CrisisMmdParams
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.preparation.expected_files import file_faults
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.registry import CORE_PACKAGES, discover
from server.runs.setup import load_config
from tests.helpers import raw_crisismmd
from tests.helpers.features import ToyImage, ToyImageParams, text_row, toy_features
from tests.helpers.raw_crisismmd import CLASSES, EVENTS, PARTS

discover((*CORE_PACKAGES, "strategies"))

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
COUNTS = (24, 12, 12)


def load(root: Path, **keys: Any) -> Dataset:
    return CrisisMmd().load(CrisisMmdParams(name="crisismmd", **keys), root, 0)


def read_raw(raw: Path, **keys: Any) -> Any:
    """The raw data under toy features."""
    with toy_features():
        checked = CrisisMmd.Raw(**{"image": "toy_image", "text": "toy_text", **keys})
        return CrisisMmd.read_raw(checked, raw, raw.parent / "cache")


def listed() -> list[dict[str, Any]]:
    """The lines of the three tables, with their split."""
    return [
        {**line, "split": split}
        for split, (part, count) in enumerate(zip(PARTS, COUNTS, strict=True))
        for line in raw_crisismmd.rows(part, count)
    ]


def words(line: dict[str, Any]) -> np.ndarray:
    """The row of a line's text without its links."""
    return text_row(" ".join(word for word in line["tweet_text"].split() if not word.startswith("http")))


def text_of(dataset: Dataset, sample: int) -> np.ndarray:
    borders, row = dataset.offsets["text"], dataset.rows["text"][sample]
    return np.asarray(dataset.arrays["text"][borders[row] : borders[row + 1]])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_crisismmd.write(tmp_path_factory.mktemp("crisismmd") / "raw", COUNTS)


@pytest.fixture(scope="module")
def root(raw: Path) -> Path:
    return raw_crisismmd.prepared(raw, raw.parent / "prepared", raw.parent / "cache")


@pytest.fixture
def broken(raw: Path, tmp_path: Path) -> Path:
    """A copy of the raw folder, to be spoilt."""
    return Path(shutil.copytree(raw, tmp_path / "raw"))


def rewrite(raw: Path, part: str, change: Any) -> None:
    """A table after ``change`` of its lines (a list of mappings)."""
    lines = raw_crisismmd.rows(part, COUNTS[PARTS.index(part)])
    change(lines)
    raw_crisismmd.write_table(raw_crisismmd.table(raw, part), lines)


# --- what a sample is -----------------------------------------------------------------------------------------------


def test_samples_are_the_pictures_with_the_label_of_the_picture(root):
    dataset, lines = load(root), listed()
    assert dataset.spec.classes == CLASSES
    assert dataset.labels.tolist() == [CLASSES.index(line["label_image"]) for line in lines]
    assert dataset.split.tolist() == [line["split"] for line in lines]


def test_a_group_is_a_tweet_and_a_natural_id_is_one_of_seven_events(root):
    dataset, lines = load(root), listed()
    assert dataset.cluster_ids.tolist() == [line["tweet_id"] for line in lines]
    assert len(np.unique(dataset.cluster_ids)) < len(lines)
    assert [EVENTS[number] for number in dataset.natural_ids.tolist()] == [line["event_name"] for line in lines]
    assert len(np.unique(dataset.natural_ids)) == 7


def test_rows_are_the_very_picture_and_its_tweet_without_links(raw, root):
    dataset, look = load(root), ToyImage(ToyImageParams())
    for sample, line in enumerate(listed()):
        picture = look.extract([RawItem((raw / line["image"]).read_bytes(), "")])[0]
        assert np.array_equal(dataset.arrays["image"][dataset.rows["image"][sample]], picture)
        assert np.array_equal(text_of(dataset, sample), words(line))


def test_quotation_marks_of_a_tweet_are_text(broken, raw):
    def quote(lines: list[dict[str, Any]]) -> None:
        lines[0]["tweet_text"] = '"unbalanced'
        lines[3]["tweet_text"] = 'a "middle" one'

    rewrite(broken, "train", quote)
    found = read_raw(broken)
    assert len(found.samples.ids) == sum(COUNTS)
    first, fourth = found.rows["text"](np.array([0, 3]))
    assert np.array_equal(first, text_row('"unbalanced'))
    assert np.array_equal(fourth, text_row('a "middle" one'))


def test_a_tweet_of_nothing_but_a_link_keeps_its_place(broken):
    rewrite(broken, "dev", lambda lines: lines[2].update(tweet_text="https://t.co/abc"))
    assert np.array_equal(read_raw(broken).rows["text"](np.array([COUNTS[0] + 2]))[0], text_row(""))


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(broken):
    clean = read_raw(broken)
    for part in PARTS:
        path = raw_crisismmd.table(broken, part)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read_raw(broken).version == clean.version
    assert read_raw(broken).digest() == clean.digest()


def test_another_encoding_may_be_named(broken):
    clean = read_raw(broken)
    for part in PARTS:
        path = raw_crisismmd.table(broken, part)
        path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    with pytest.raises(DataError, match=r"img_train.tsv: expected text in utf-8, found byte 0xc2 .*cp1252"):
        read_raw(broken)
    assert read_raw(broken, encoding="cp1252").version == clean.version


def test_an_unfinished_preparation_knows_other_texts_and_other_pictures(broken):
    first = read_raw(broken).digest()
    raw_crisismmd.write_picture(broken / listed()[0]["image"], 3)
    (broken / listed()[0]["image"]).write_bytes((broken / listed()[0]["image"]).read_bytes() + b"\0")
    second = read_raw(broken).digest()
    rewrite(broken, "test", lambda lines: lines[0].update(tweet_text="other"))
    assert len({first, second, read_raw(broken).digest()}) == 3


# --- splits, partitions, the protocol -------------------------------------------------------------------------------


def stray(raw: Path) -> int:
    """The tweet of the first training picture gets a picture in test; its number."""
    tweet = int(listed()[0]["tweet_id"])
    rewrite(raw, "test", lambda lines: lines[4].update(tweet_id=tweet))
    return tweet


def test_a_tweet_in_two_splits_is_a_fault_in_words(broken):
    tweet = stray(broken)
    with pytest.raises(DataError) as caught:
        read_raw(broken)
    line = str(caught.value)
    assert f"expected the pictures of a tweet in one split, found those of {tweet} in train and test;" in line
    assert "set straddling: leave_out" in line and "\n" not in line


def test_a_tweet_in_two_splits_may_stay_in_the_last_alone(broken, tmp_path):
    tweet = stray(broken)
    left = load(raw_crisismmd.prepared(broken, tmp_path / "out", tmp_path / "cache", straddling="leave_out"))
    assert left.split[left.cluster_ids == tweet].tolist() == [2]
    assert left.ids.tolist() == list(range(1, sum(COUNTS)))
    lines = listed()
    assert np.array_equal(text_of(left, 5), words(lines[6]))


def test_the_protocol_gives_test_pictures_the_texts_of_validation_in_order(root):
    plain, dataset, lines = load(root), load(root, protocol="fedmultimodal"), listed()
    test, validation = dataset.members(2), dataset.members(1)
    for picture, donor in zip(test.tolist(), validation.tolist(), strict=True):
        assert np.array_equal(text_of(dataset, picture), words(lines[donor]))
        assert not np.array_equal(text_of(dataset, picture), words(lines[picture]))
    others = dataset.split < 2
    assert np.array_equal(dataset.rows["text"][others], plain.rows["text"][others])
    assert np.array_equal(dataset.rows["image"], plain.rows["image"])
    assert np.array_equal(dataset.labels, plain.labels)
    assert len(dataset.faults) == 1 and "protocol fedmultimodal" in dataset.faults[0]
    assert plain.faults == ()


def test_the_protocol_begins_again_where_validation_is_shorter(tmp_path):
    raw = raw_crisismmd.write(tmp_path / "raw", (24, 8, 11))
    dataset = load(raw_crisismmd.prepared(raw, tmp_path / "out", tmp_path / "cache"), protocol="fedmultimodal")
    donors = dataset.rows["text"][dataset.members(1)]
    assert dataset.rows["text"][dataset.members(2)].tolist() == [*donors.tolist(), *donors[:3].tolist()]


@pytest.mark.parametrize("protocol", ["default", "fedmultimodal"])
def test_no_tweet_is_in_two_splits(root, protocol):
    dataset = load(root, protocol=protocol)
    parts = [set(dataset.cluster_ids[dataset.members(split)].tolist()) for split in range(3)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_by_event_each_of_seven_sites_is_a_disaster(root):
    config = load_config(CONFIGS / "fedrecon/crisismmd_events.yaml", [f"data.root={root}"])
    dataset = load(root)
    shares = allocate(dataset, config.model_copy(update={"missing": type(config.missing)()})).train
    held = [set(dataset.natural_ids[share.samples].tolist()) for share in shares.values()]
    assert sorted(event for events in held for event in events) == list(range(7))
    assert len(shares) == 7 and all(len(events) == 1 for events in held)


@pytest.mark.parametrize("alpha", [0.1, 5.0])
def test_dirichlet_assigns_every_training_picture_to_one_site(root, alpha):
    settings = [f"data.root={root}", f"data.partition.alpha={alpha}", "sites.count=5"]
    config = load_config(CONFIGS / "fedmultimodal/crisismmd.yaml", settings)
    dataset = load(root)
    held = [share.samples for share in allocate(dataset, config).train.values()]
    assert sorted(np.concatenate(held).tolist()) == dataset.members(0).tolist()


# --- faults ---------------------------------------------------------------------------------------------------------


def test_an_empty_folder_reports_every_expected_file(tmp_path):
    faults = file_faults(tmp_path, CrisisMmd.expected_files(CrisisMmd.Raw.model_construct(), tmp_path))
    wanted = [raw_crisismmd.table(tmp_path, part) for part in PARTS] + [tmp_path / "data_image/*/*/*"]
    assert [fault.split(": expected")[0] for fault in faults] == [str(path) for path in wanted]
    assert all(fault.endswith("found none") for fault in faults)
    assert "crisismmd_datasplit_all.zip" in faults[0] and "CrisisMMD_v2.0.tar.gz" in faults[3]


def test_a_complete_folder_has_no_faults(raw):
    assert file_faults(raw, CrisisMmd.expected_files(CrisisMmd.Raw.model_construct(), raw)) == []


def test_missing_pictures_are_named(broken):
    gone = [line["image"] for line in listed()[:7]]
    for path in gone:
        (broken / path).unlink()
    with pytest.raises(DataError) as caught:
        read_raw(broken)
    line = str(caught.value)
    assert f"expected the {sum(COUNTS)} pictures of the tables, found no {', '.join(gone[:5])} and 2 more" in line


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"label_image": "fine"}, "line 4: label_image: expected one of affected_individuals, .*, found 'fine'"),
        ({"tweet_id": "9.17791E+17"}, r"line 4: tweet_id: expected a whole number .*, found '9.17791E\+17'; spread"),
        ({"tweet_text": "a\tb"}, "line 4: expected 9 cells between tabs, found 10"),
    ],
)
def test_a_wrong_cell_is_one_line_that_names_table_and_line(broken, cells, expected):
    rewrite(broken, "test", lambda lines: lines[2].update(cells))
    with pytest.raises(DataError, match=rf"img_test.tsv: {expected}"):
        read_raw(broken)


@pytest.mark.parametrize("way", ["../../etc/passwd", "/etc/passwd", "data_image/out.jpg"])
def test_a_picture_outside_the_folder_is_refused(broken, way):
    (broken / "data_image/out.jpg").symlink_to("/etc/passwd")
    rewrite(broken, "train", lambda lines: lines[5].update(image=way))
    with pytest.raises(DataError, match=f"expected a path inside this folder, found '{way}', which leads out of it"):
        read_raw(broken)


def test_a_picture_that_is_listed_twice_is_a_fault(broken):
    rewrite(broken, "test", lambda lines: lines[2].update(image_id=listed()[0]["image_id"]))
    with pytest.raises(DataError, match=r"expected every image_id once, found \d+_0 in .*_train.tsv: line 2 and in .*"):
        read_raw(broken)


def test_missing_columns_are_named_with_those_found(broken):
    def drop(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            del line["label_image"], line["tweet_id"]

    rewrite(broken, "dev", drop)
    expected = "img_dev.tsv: expected a column tweet_id, label_image, found the columns event_name, image_id"
    with pytest.raises(DataError, match=expected):
        read_raw(broken)


def test_an_image_that_is_none_is_named(broken, tmp_path):
    path = broken / listed()[9]["image"]
    path.write_text("<html>not found</html>")
    with pytest.raises(DataError, match="expected an image") as caught:
        raw_crisismmd.prepared(broken, tmp_path / "out", tmp_path / "cache")
    assert str(path) in str(caught.value)


def test_a_feature_of_another_medium_is_refused(raw):
    with pytest.raises(ConfigError, match="image: expected a feature of image, found 'toy_text', which is one of text"):
        read_raw(raw, image="toy_text")


# --- the configs, and the official files ----------------------------------------------------------------------------


def test_the_config_of_the_benchmark_states_its_numbers():
    config: Any = load_config(CONFIGS / "fedmultimodal/crisismmd.yaml", [])
    task = config.local.task
    assert (config.rounds, config.sites.count, config.sites.fraction) == (200, 100, 0.1)
    assert (task.lr, task.batch, task.optimizer) == (0.05, 16, "sgd")
    assert (task.momentum, task.weight_decay, task.clip) == (0.9, 1e-5, 10)
    assert (config.data.protocol, config.data.partition.alpha, config.strategy.weighting) == (
        "fedmultimodal",
        5.0,
        "samples",
    )
    assert (config.evaluate.select, config.recovery.name) == ("macro_f1", "zero")


@pytest.mark.parametrize(
    ("name", "partition", "sites"), [("crisismmd", "dirichlet", 100), ("crisismmd_events", "natural", 7)]
)
def test_the_configs_of_the_paper_miss_alike_in_training_and_test(name, partition, sites):
    config: Any = load_config(CONFIGS / f"fedrecon/{name}.yaml", [])
    assert config.missing.train.rate == config.missing.test.rate == 0.5
    assert (config.data.protocol, config.data.partition.name, config.sites.count) == ("default", partition, sites)
    benchmark: Any = load_config(CONFIGS / "fedmultimodal/crisismmd.yaml", [])
    assert (config.modalities, config.task) == (benchmark.modalities, benchmark.task)
    assert (config.recovery.name, config.strategy.name, config.strategy.lr) == ("fedrecon", "fedopt", 0.005)
    assert config.evaluate.select == "macro_f1"


def test_official_files_give_the_published_counts():
    """13,608 + 2,237 + 2,237 pictures of seven events; no tweet in two splits."""
    place = os.environ.get("FEDRECON_CRISISMMD")
    if not place:
        pytest.skip("FEDRECON_CRISISMMD does not name a folder with crisismmd_datasplit_all and data_image")
    samples = read_raw(Path(place)).samples
    assert np.bincount(samples.split).tolist() == [13608, 2237, 2237]
    assert len(np.unique(samples.natural_ids)) == 7
    assert len(np.unique(samples.labels)) == 8

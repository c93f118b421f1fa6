"""PolyMNIST from its official folders and built anew: the recipe pixel by pixel, no digit in two splits, bad files."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.datasets.polymnist import MNIST, PolyMNIST, PolyMNISTRaw, sources
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import file_faults
from fedrecon_core.preparation.writer import write_site_folder
from fedrecon_core.registry import CORE_PACKAGES, discover
from tests.helpers import raw_polymnist as toy

discover(CORE_PACKAGES)

TEST = 1_000_000
"""Where the ids of the test part begin."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and photographs, for tests that only read."""
    folder = tmp_path_factory.mktemp("raw")
    toy.write_ingredients(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return opened(toy.prepared(raw, tmp_path_factory.mktemp("out") / "set"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Digits and photographs that a test may damage."""
    toy.write_ingredients(tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The official folders, in the folder above ``PolyMNIST``."""
    toy.write_folders(tmp_path / "raw" / "PolyMNIST")
    return tmp_path / "raw"


def opened(folder: Path) -> Dataset:
    return PolyMNIST().load(PolyMNIST.Params(name="polymnist"), folder, 0)


def faults(raw: Path, **keys) -> list[str]:
    chosen = toy.keys(**keys)
    return file_faults(raw, PolyMNIST.expected_files(chosen, raw))


def refusal(raw: Path, out: Path, **keys) -> str:
    """The one line with which the preparation of ``raw`` ends."""
    chosen = toy.keys(**keys)
    with pytest.raises(DataError) as error:
        write_site_folder(PolyMNIST.read_raw(chosen, raw, raw), out, lambda modality, done, total: None)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- built from digits and photographs --------------------------------------------------------------------------------


def test_spec_names_five_colour_images_with_their_likelihood(dataset):
    assert dataset.spec.names == ("m0", "m1", "m2", "m3", "m4")
    for modality in dataset.spec.modalities:
        assert (modality.kind, modality.shape, modality.scale) == ("image", (3, 28, 28), "none")
        assert (modality.likelihood.name, modality.likelihood.std) == ("gaussian", 0.1)
    assert dataset.spec.classes == tuple("0123456789")


@pytest.mark.parametrize("pairing", ["class", "instance"])
def test_every_picture_is_a_crop_of_its_background_inverted_where_its_digit_is(pairing, raw, tmp_path):
    dataset = opened(toy.prepared(raw, tmp_path / "set", pairing=pairing))
    images = {0: toy.digits(toy.TRAIN, 0)[0], 1: toy.digits(toy.TEST, 1)[0]}
    shown = sources(toy.keys(pairing=pairing), raw)
    for m, photograph in enumerate(toy.photographs()):
        windows = np.lib.stride_tricks.sliding_window_view(photograph, (28, 28), axis=(0, 1)).reshape(-1, 3, 28, 28)
        crops = {window.tobytes() for window in windows}
        rows = np.rint(np.asarray(dataset.arrays[f"m{m}"]) * 255).astype(np.uint8)
        for row, source in zip(rows, shown[:, m].tolist(), strict=True):
            digit = images[source // TEST][source % TEST] > 128
            assert np.where(digit, 255 - row, row).tobytes() in crops


def test_modalities_of_a_tuple_share_the_class_and_by_instance_the_digit(dataset, raw):
    classes = {0: toy.digits(toy.TRAIN, 0)[1], 1: toy.digits(toy.TEST, 1)[1]}
    shown = sources(toy.keys(), raw)
    for column in shown.T:
        assert [classes[s // TEST][s % TEST] for s in column.tolist()] == dataset.labels.tolist()
    assert (shown[:, 1:] == shown[:, :1]).mean() < 0.7  # some of the two or three digits of a class meet themselves
    assert len(np.unique(shown.T, axis=0)) == 5
    same = sources(toy.keys(pairing="instance"), raw)
    assert (same == same[:, :1]).all()


def test_no_digit_is_in_two_splits_in_any_modality(dataset, raw):
    for keys in ({}, {"train_tuples": 20, "test_tuples": 10}):
        found = opened_or_made(dataset, raw, keys)
        shown = sources(toy.keys(**keys), raw)
        parts = [set(shown[found == part].flatten().tolist()) for part in range(3)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert max(parts[0] | parts[1]) < TEST <= min(parts[2])


def opened_or_made(dataset: Dataset, raw: Path, keys: dict[str, int]) -> np.ndarray:
    """The split of the samples under ``keys``."""
    return PolyMNIST.read_raw(toy.keys(**keys), raw, raw).samples.split if keys else dataset.split


def test_the_group_is_the_digit_of_m0_and_splits_hold_the_classes_in_their_shares(dataset, raw):
    assert np.array_equal(dataset.cluster_ids, sources(toy.keys(), raw)[:, 0])
    assert np.array_equal(dataset.ids, dataset.cluster_ids)
    for part, size in enumerate((toy.TRAIN - toy.VALIDATION, toy.VALIDATION, toy.TEST)):
        assert np.bincount(dataset.labels[dataset.split == part]).tolist() == [size // 10] * 10


def test_a_smaller_set_is_a_part_of_the_larger_one(dataset, raw, tmp_path):
    small = opened(toy.prepared(raw, tmp_path / "small", train_tuples=20, test_tuples=10, modalities=2))
    assert np.bincount(small.split).tolist() == [20, toy.VALIDATION, 10]
    assert np.bincount(small.labels[small.split == 0]).tolist() == [2] * 10
    place = {key: index for index, key in enumerate(dataset.ids.tolist())}
    chosen = [place[key] for key in small.ids.tolist()]
    assert np.array_equal(small.split, dataset.split[chosen])
    for name in ("m0", "m1"):
        assert np.array_equal(small.arrays[name], np.asarray(dataset.arrays[name])[chosen])


def test_published_files_are_read_compressed_and_held_to_their_checksum(dataset, tmp_path):
    toy.write_mnist(tmp_path, toy.digits(toy.TRAIN, 0), toy.digits(toy.TEST, 1), suffix=".gz")
    toy.write_backgrounds(tmp_path, toy.photographs())
    found = faults(tmp_path)
    assert len(found) == 4 and all("expected the MD5" in line and "fetch it again" in line for line in found)
    again = PolyMNIST.read_raw(toy.keys(), tmp_path, tmp_path)
    assert np.array_equal(again.rows["m3"](np.arange(5)), dataset.arrays["m3"][:5])


def test_photographs_go_by_their_names_else_in_order(raw, tmp_path):
    def first(names: list[str]) -> list[np.ndarray]:
        folder = tmp_path / names[0]
        toy.write_mnist(folder, toy.digits(toy.TRAIN, 0), toy.digits(toy.TEST, 1))
        toy.write_backgrounds(folder, toy.photographs(), names)
        (folder / "backgrounds" / ".hidden").write_text("no photograph")
        raw_data = PolyMNIST.read_raw(toy.keys(), folder, folder)
        return [rows(np.arange(3)) for rows in raw_data.rows.values()]

    known = [rows(np.arange(3)) for rows in PolyMNIST.read_raw(toy.keys(), raw, raw).rows.values()]
    for names in (["a.png", "b.png", "c.png", "d.png", "e.png"], [f"m{m}.bmp" for m in range(5)]):
        assert np.array_equal(first(names), known)


def test_an_interrupted_preparation_resumes_only_with_the_same_photographs(own):
    before = PolyMNIST.read_raw(toy.keys(), own, own).digest()
    assert PolyMNIST.read_raw(toy.keys(), own, own).digest() == before
    Image.fromarray(toy.photographs()[0][::-1]).save(own / "backgrounds" / "m0.png")
    assert PolyMNIST.read_raw(toy.keys(), own, own).digest() != before


# --- the official folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["above", "itself"])
def test_official_folders_are_read_as_they_lie(given, folders, tmp_path):
    raw = folders if given == "above" else folders / "PolyMNIST"
    found = opened(toy.prepared(raw, tmp_path / "set"))
    number, part = found.ids % TEST, found.ids // TEST
    for m, name in enumerate(found.spec.names):
        first = np.rint(np.asarray(found.arrays[name])[:, :, 0, 0] * 255).astype(int)
        assert np.array_equal(first, np.stack([part, np.full_like(part, m), number], axis=1))
        middle = np.asarray(found.arrays[name])[:, 0, 14, 14]
        assert np.allclose(middle * 255, 20 * found.labels)
    assert np.array_equal(found.split == 2, part == 1)
    assert np.bincount(found.split).tolist() == [toy.TRAIN - toy.VALIDATION, toy.VALIDATION, toy.TEST]
    assert np.array_equal(found.cluster_ids, found.ids)


def test_fewer_official_tuples_are_a_part_of_all(folders, tmp_path):
    found = opened(toy.prepared(folders, tmp_path / "set", train_tuples=20, test_tuples=10, modalities=3))
    assert found.spec.names == ("m0", "m1", "m2")
    assert np.bincount(found.split).tolist() == [20, toy.VALIDATION, 10]


# --- bad files --------------------------------------------------------------------------------------------------------


def test_every_missing_file_has_a_line(own):
    for name in MNIST:
        (own / name).unlink()
    (own / "backgrounds" / "m3.png").unlink()
    lines = faults(own)
    assert len(lines) == 5
    assert all(f"{name} or {name}.gz" in line for name, line in zip(MNIST, lines, strict=False))
    assert "a photograph per modality, m0 to m4" in lines[-1] and "found 4 of at least 5" in lines[-1]


def test_an_empty_folder_reports_both_layouts(tmp_path):
    (line,) = faults(tmp_path)
    assert "PolyMNIST/{train,test}/m0 to m4" in line and "backgrounds" in line


def test_a_missing_official_folder_has_a_line(folders):
    for path in (folders / "PolyMNIST" / "test" / "m2").iterdir():
        path.unlink()
    (line,) = faults(folders)
    assert "PolyMNIST/test/m2" in line and "found none" in line


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
DAMAGES = {
    "cut": (IMAGES, lambda old: old[:-1000], rf"{IMAGES}: expected 39200 values, as its header says, found 38200"),
    "long": (IMAGES, lambda old: old + b"x", rf"{IMAGES}: expected 39200 values, .*, found more"),
    "header": (IMAGES, lambda old: old[:9], rf"{IMAGES}: expected a header of 16 bytes, found 9"),
    "empty": (IMAGES, lambda old: b"", rf"{IMAGES}: expected an IDX file .*, found an empty file"),
    "magic": (LABELS, lambda old: b"\x00\x00\x0d\x01" + old[4:], rf"{LABELS}: .*00000801.*, found 00000d01"),
    "swapped": (LABELS, lambda old: bytes((0, 0, 8, 3)) + old[4:], rf"{LABELS}: .*00000801.*, found 00000803"),
    "huge": (IMAGES, lambda old: old[:4] + b"\xff" * 12 + old[16:], rf"{IMAGES}: expected at most 2147483648 values"),
    "label": (LABELS, lambda old: old[:-1] + b"\x0a", rf"{LABELS}: expected digits 0 to 9, found 10 at position 19"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_idx_file_is_named(damage, own, tmp_path):
    name, change, expected = DAMAGES[damage]
    (own / name).write_bytes(change((own / name).read_bytes()))
    assert re.search(expected, refusal(own, tmp_path / "out"))


def test_images_of_another_size_and_labels_of_another_number_are_named(own, tmp_path):
    images, labels = toy.digits(toy.TRAIN, 0)
    toy.write_idx(own / "train-labels-idx1-ubyte", labels[:-1])
    assert "expected a label for each of 50 images, found 49" in refusal(own, tmp_path / "out")
    toy.write_idx(own / IMAGES, images[:, :27])
    assert f"{IMAGES}: expected images of 28 x 28, found 27 x 28" in refusal(own, tmp_path / "out")


def test_a_damaged_gz_file_is_named(tmp_path):
    toy.write_mnist(tmp_path, toy.digits(toy.TRAIN, 0), toy.digits(toy.TEST, 1), suffix=".gz")
    toy.write_backgrounds(tmp_path, toy.photographs())
    path = tmp_path / f"{IMAGES}.gz"
    whole = path.read_bytes()
    for content in (whole[:2000], b"no gzip", whole[:1000] + b"\x00" * 200 + whole[1200:]):
        path.write_bytes(content)
        assert refusal(tmp_path, tmp_path / "out").startswith(f"{path}: expected ")


def test_a_photograph_that_is_none_or_too_small_or_there_twice_is_named(own, tmp_path):
    photograph = own / "backgrounds" / "m2.png"
    Image.new("RGB", (27, 40)).save(photograph)
    assert f"{photograph}: expected at least 28 x 28 pixels, found 27 x 40" in refusal(own, tmp_path / "out")
    photograph.write_bytes(b"text")
    assert f"{photograph}: expected a picture, found cannot identify" in refusal(own, tmp_path / "out")
    Image.new("RGB", (40, 40)).save(own / "backgrounds" / "m2.bmp")
    assert "expected one photograph named m2 (jpg, png, ...), found m2.bmp and m2.png" in refusal(own, tmp_path / "out")
    photograph.unlink()
    (own / "backgrounds" / "m2.bmp").unlink()
    assert "expected one photograph named m2 (jpg, png, ...), found none" in refusal(own, tmp_path / "out")


def test_an_official_picture_that_is_none_or_of_another_size_is_named(folders, tmp_path):
    path = sorted((folders / "PolyMNIST" / "train" / "m1").iterdir())[0]
    Image.new("RGB", (32, 28)).save(path)
    assert f"{path}: expected 28 x 28 pixels, found 32 x 28" in refusal(folders, tmp_path / "out")
    path.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    assert f"{path}: expected a picture, found" in refusal(folders, tmp_path / "other")


def test_an_official_tuple_must_be_whole_and_named_as_it_should(folders, tmp_path):
    train = folders / "PolyMNIST" / "train"
    path = sorted((train / "m4").iterdir())[0]
    picture = path.read_bytes()
    path.unlink()
    assert f"{path}: expected a picture of the same name in each modality" in refusal(folders, tmp_path / "out")
    path.write_bytes(picture)
    for m in range(5):
        (train / f"m{m}" / "zero.png").write_bytes(picture)
    assert "zero.png: expected a name like 17.4.png" in refusal(folders, tmp_path / "out")
    for m in range(5):
        (train / f"m{m}" / "zero.png").rename(train / f"m{m}" / f"{path.stem.split('.')[0]}.x.png")
    assert "x.png: expected a name like 17.4.png" in refusal(folders, tmp_path / "out")


def test_a_number_that_stands_twice_is_named(folders, tmp_path):
    _, classes = toy.digits(toy.TRAIN, 0)
    for m in range(5):
        folder = folders / "PolyMNIST" / "train" / f"m{m}"
        (folder / f"7.{(classes[7] + 1) % 10}.png").write_bytes((folder / f"7.{classes[7]}.png").read_bytes())
    assert "expected one picture with the number 7, found several" in refusal(folders, tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"validation": 50}, "validation: expected fewer than the 50 digits of the training part, found 50"),
        ({"train_tuples": 31}, "train_tuples: expected at most the 30 digits of the training part"),
        ({"test_tuples": 21}, "test_tuples: expected at most the 20 digits of the test part, found 21"),
    ],
)
def test_more_than_there_is_is_refused_by_its_key(keys, expected, raw, tmp_path):
    assert expected in refusal(raw, tmp_path / "out", **keys)


def test_both_layouts_at_once_are_refused_unless_one_is_named(own, tmp_path):
    toy.write_folders(own)
    message = "found both; set layout to png or idx"
    assert message in refusal(own, tmp_path / "out")
    with pytest.raises(DataError, match=message):
        faults(own)
    for layout in ("png", "idx"):
        assert faults(own, layout=layout) == []
        toy.prepared(own, tmp_path / layout, layout=layout)
    official, built = opened(tmp_path / "png"), opened(tmp_path / "idx")
    assert official.arrays["m0"][0][0, 0, 0] != built.arrays["m0"][0][0, 0, 0]


def test_official_folders_say_that_a_digit_may_recur_in_validation(folders, dataset, tmp_path):
    found = opened(toy.prepared(folders, tmp_path / "set"))
    [fault] = found.faults
    assert fault.startswith("layout png: ") and "that of a validation tuple may also occur" in fault
    assert dataset.faults == ()


def test_official_folders_are_not_paired_by_instance(folders, tmp_path):
    assert "pairing: expected class" in refusal(folders, tmp_path / "out", pairing="instance")


@pytest.mark.parametrize("wrong", [{"modalities": 6}, {"modalities": 1}, {"train_tuples": 0}, {"layout": "jpg"}])
def test_impossible_keys_are_refused_by_name(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PolyMNISTRaw(**wrong)


def test_a_folder_of_another_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a folder prepared for 'polymnist'"):
        opened(tmp_path)


def test_a_prepared_folder_without_one_of_its_modalities_is_refused(dataset, tmp_path):
    present = np.ones((len(dataset.ids), 5), dtype=bool)
    present[:, 3] = False
    samples = Samples(dataset.ids, dataset.labels, dataset.split, dataset.cluster_ids, present)
    arrays = {name: array for name, array in dataset.arrays.items() if name != "m3"}
    write_folder(tmp_path / "set", FolderContent(dataset.spec, samples, arrays))
    with pytest.raises(DataError, match="expected a sample with modality 'm3', found none in the whole data set"):
        opened(tmp_path / "set")

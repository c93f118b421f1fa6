"""Data set ``npz``: arrays are read as described, and each fault is one line."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.npz import Npz, read_npz
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import file_faults
from fedrecon_core.preparation.writer import write_site_folder
from fedrecon_core.registry import CORE_PACKAGES, discover
from tests.helpers.raw_npz import arrays, description, root, write

pytestmark = pytest.mark.quick
discover(CORE_PACKAGES)

ROOT = Path(__file__).resolve().parents[4]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def toy(tmp_path) -> Dataset:
    return read_npz(root(tmp_path))


def changed(base: Path, keys: dict[str, Any] | None = None, content: dict[str, Any] | None = None) -> Path:
    """The toy with other keys (None: without the key) and other arrays."""
    described, held = description() | (keys or {}), arrays() | (content or {})
    return write(
        base,
        {name: array for name, array in held.items() if array is not None},
        {key: value for key, value in described.items() if value is not None},
    )


def modality(number: int, **keys: Any) -> dict[str, Any]:
    """The toy's ``modalities`` with other keys in one of them."""
    modalities = description()["modalities"]
    modalities[number] = {k: v for k, v in (modalities[number] | keys).items() if v is not None}
    return {"modalities": modalities}


def refused(path: Path) -> str:
    """The line that reading ``path`` ends with."""
    with pytest.raises(DataError) as caught:
        read_npz(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what comes out -------------------------------------------------------------------------------------------------


def test_absent_samples_and_padding_are_not_read(toy):
    held = arrays()
    assert toy.spec["blood"].shape == (2,) and toy.spec["motion"].shape == (8, 2)
    for sample in range(60):
        row = toy.rows["blood"][sample]
        assert (row >= 0) == held["has_blood"][sample]
        if row >= 0:
            assert toy.arrays["blood"][row] == pytest.approx(held["blood"][sample, [0, 2]])
        borders = toy.offsets["motion"]
        steps = toy.arrays["motion"][borders[sample] : borders[sample + 1]]
        assert np.array_equal(steps, held["motion"][sample, : held["steps"][sample]].astype(np.float32))
    assert toy.arrays["motion"].dtype == toy.arrays["blood"].dtype == np.float32
    assert len(toy.arrays["blood"]) == held["has_blood"].sum() < 60


def test_the_specification_is_what_the_description_says(toy, tmp_path):
    assert (toy.spec.name, toy.spec.classes, toy.spec.target) == ("toy_npz", ("rest", "walk", "run"), "multiclass")
    assert [(m.kind, m.scale) for m in toy.spec.modalities] == [("sequence", "standard"), ("vector", "none")]
    keys = modality(1, likelihood={"name": "laplace", "std": 0.5}) | {"classes": ["a", "b", "c"]}
    spec = read_npz(changed(tmp_path / "other", keys)).spec
    assert (spec["blood"].likelihood.name, spec["blood"].likelihood.std, spec.classes) == (
        "laplace",
        0.5,
        ("a", "b", "c"),
    )


def test_validation_is_drawn_from_whole_training_groups_and_is_the_same_for_every_seed(toy, tmp_path):
    held = arrays()
    assert np.array_equal(toy.split == 2, held["part"] == 2)
    groups = [set(toy.cluster_ids[toy.members(part)].tolist()) for part in range(3)]
    assert [len(part) for part in groups] == [6, 2, 2]
    assert not groups[0] & groups[1]
    for seed in (1, 2):
        again = Npz().load(Npz.Params(name="npz"), root(tmp_path), seed)
        assert np.array_equal(again.split, toy.split)


def test_a_split_may_be_named_by_texts_and_a_test_part_may_be_drawn(tmp_path):
    part = np.array(["fit", "choose", "score"])[np.repeat([0, 0, 0, 0, 0, 0, 0, 1, 2, 2], 6)]
    split = {"array": "part", "train": ["fit"], "validation": ["choose"], "test": ["score"]}
    named = read_npz(changed(tmp_path / "named", {"split": split, "validation": None}, {"part": part}))
    assert np.bincount(named.split).tolist() == [42, 6, 12]
    drawn = read_npz(changed(tmp_path / "drawn", {"split": None, "test": {"share": 0.3}}))
    parts = [set(drawn.cluster_ids[drawn.members(part)].tolist()) for part in range(3)]
    assert [len(found) for found in parts] == [5, 2, 3] and not parts[1] & parts[2]


def test_groups_and_natural_ids_may_be_texts_and_may_differ(tmp_path):
    names = np.array([f"user {number % 3}" for number in range(60)])
    dataset = read_npz(changed(tmp_path, {"natural": "who"}, {"who": names}))
    assert np.array_equal(dataset.natural_ids, np.arange(60) % 3)
    assert np.array_equal(dataset.cluster_ids, arrays()["subject"])
    alone = read_npz(changed(tmp_path / "alone", {"group": None}))
    assert np.array_equal(alone.cluster_ids, np.arange(60)) and np.array_equal(alone.natural_ids, alone.cluster_ids)


def test_several_labels_per_sample(tmp_path):
    labels = np.random.default_rng(0).random((60, 3)) < 0.5
    dataset = read_npz(changed(tmp_path, content={"label": labels}))
    assert dataset.spec.target == "multilabel"
    assert np.array_equal(dataset.labels, labels) and dataset.labels.dtype == np.int64


def test_it_can_be_prepared_into_a_folder_that_holds_the_same(toy, tmp_path):
    raw = root(tmp_path / "raw").parent
    assert file_faults(raw, Npz.expected_files(Npz.Raw(), raw)) == []
    write_site_folder(Npz.read_raw(Npz.Raw(), raw, tmp_path / "cache"), tmp_path / "out", lambda *_: None)
    folder = Npz().load(Npz.Params(name="npz"), tmp_path / "out", 0)
    assert isinstance(folder.arrays["motion"], np.memmap)
    assert folder.spec == toy.spec
    for column in ("labels", "ids", "split", "cluster_ids", "natural_ids"):
        assert np.array_equal(getattr(folder, column), getattr(toy, column))
    for name in toy.spec.names:
        assert np.asarray(folder.arrays[name]).tobytes() == np.asarray(toy.arrays[name]).tobytes()
        assert np.array_equal(folder.rows[name], toy.rows[name])
    assert np.array_equal(folder.offsets["motion"], toy.offsets["motion"])


# --- faults ---------------------------------------------------------------------------------------------------------

BLOOD, MOTION = arrays()["blood"], arrays()["motion"]


def spoilt(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    copy = array.astype(np.float64)
    copy[index] = value
    return copy


PRESENT = int(np.flatnonzero(arrays()["has_blood"])[3])


@pytest.mark.parametrize(
    ("keys", "content", "line"),
    [
        ({"lable": "label"}, {}, "npz.yaml: lable: unknown key (found 'label'). Did you mean 'label'?"),
        ({"label": None}, {}, "npz.yaml: label: this key is required and was not found"),
        ({"label": "labels"}, {}, "toy.npz: label: expected one of blood, has_blood, label, motion, names,"),
        ({"label": "lable"}, {}, "found 'lable'. Did you mean 'label'?"),
        ({"file": "no.npz"}, {}, "no.npz: expected the arrays in an .npz file, found nothing; put the file there"),
        ({"file": "../toy.npz"}, {}, "expected a path inside this folder, found '../toy.npz', which leads out of it"),
        ({"file": "/etc/passwd"}, {}, "expected a path inside this folder, found '/etc/passwd'"),
        ({"file": "."}, {}, "expected the arrays in an .npz file, found a folder"),
        ({"file": "npz.yaml"}, {}, "expected an .npz file (as np.savez writes it), found something else"),
        ({"modalities": []}, {}, "modalities: expected at least 1 entry, found []"),
        ({"modalities": description()["modalities"][:1] * 2}, {}, "expected unique names, found 'motion' twice"),
        (modality(0, name="Motion"), {}, "modalities.0.name: expected a text that matches"),
        (modality(0, kind="sequenze"), {}, "modalities.motion.kind: unknown modality kind "),
        (modality(0, array="moton"), {}, "modalities.motion: expected one of blood"),
        (modality(0, lengths="step"), {}, "modalities.motion.lengths: expected one of"),
        (
            modality(0, kind="vector", lengths=None),
            {},
            "a sample of motion: expected [D] (vector), none of them 0, found [8, 2]",
        ),
        (modality(1, lengths="steps"), {}, "modalities.blood.lengths: expected an array [N, T, D]"),
        (modality(1, channels=[0, 3]), {}, "blood.channels: expected positions 0 to 2 on the last axis of blood"),
        (modality(1, channels=[-1]), {}, "expected positions 0 to 2 on the last axis of blood, found -1"),
        (modality(1, channels=[]), {}, "modalities.1.channels: expected at least 1 entry"),
        (modality(1, present="steps"), {}, "steps (modalities.blood.present): expected booleans, found int64"),
        ({}, {"has_blood": np.zeros(60, bool)}, "has_blood (modalities.blood.present): expected a sample"),
        ({}, {"has_blood": np.ones(59, bool)}, "has_blood (modalities.blood.present): expected 60 rows, like label"),
        (modality(1, present=None), {}, "blood (modalities.blood): expected finite numbers, found NaN"),
        ({}, {"blood": spoilt(BLOOD, (PRESENT, 2), np.inf)}, f"found NaN or infinity in row {PRESENT}; mark missing"),
        ({}, {"blood": spoilt(BLOOD, (PRESENT, 2), 1e300)}, f"found NaN or infinity in row {PRESENT}"),
        (
            {},
            {"motion": spoilt(MOTION, (7, 0, 1), np.nan)},
            "motion (modalities.motion): expected finite numbers, found NaN or infinity in row 7;",
        ),
        ({}, {"blood": BLOOD[:59]}, "blood (modalities.blood): expected 60 rows, like label, found shape [59, 3]"),
        ({}, {"blood": BLOOD.astype(str)}, "blood (modalities.blood): expected floating-point numbers or"),
        ({}, {"blood": BLOOD + 1j}, "found complex128"),
        ({}, {"blood": np.array([{}] * 60)}, "blood: expected an undamaged array, found: Object arrays"),
        (
            modality(1, channels=None),
            {"blood": BLOOD[:, 0]},
            "of blood: expected [D] (vector), none of them 0, found []",
        ),
        (modality(1, channels=None), {"blood": BLOOD[:, :0]}, "[D] (vector), none of them 0, found [0]"),
        ({}, {"steps": np.full(60, 9)}, "steps (modalities.motion.lengths): expected 1 to 8 steps, found 9"),
        (
            {},
            {"steps": np.zeros(60, int)},
            "expected 1 to 8 steps, found 0; mark missing samples with an array (present)",
        ),
        ({}, {"steps": np.full(60, 2.0)}, "steps (modalities.motion.lengths): expected integers, found float64"),
        ({}, {"label": np.full(60, 3)}, "label (label): expected 0 to 2 (the classes), found 3"),
        ({}, {"label": np.full(60, -1)}, "label (label): expected 0 to 2 (the classes), found -1"),
        ({}, {"label": np.zeros(60)}, "label (label): expected integers or booleans, found float64"),
        ({}, {"label": np.zeros((60, 2), int)}, "expected [N], or [N, 3] of zeros and ones, found [60, 2]"),
        ({}, {"label": np.full((60, 3), 2)}, "label (label): expected zeros and ones, found 2"),
        ({}, {"label": np.int64(3)}, "label (label): expected at least one axis, found shape []"),
        ({"classes": []}, {}, "classes: expected two or more different names, found none"),
        ({"classes": ["a", "b", "a"]}, {}, "classes: expected two or more different names, found a, b, a"),
        ({"classes": "label"}, {}, "label (classes): expected strings, found int16"),
        ({"group": "blood"}, {}, "blood (group): expected integers or strings, found float64"),
        (
            {"group": "motion", "natural": "subject"},
            {"motion": np.zeros((60, 8, 2), int)},
            "motion (group): expected one value per row",
        ),
        ({"natural": "subjects"}, {}, "natural: expected one of"),
        ({"group": "label"}, {}, "group: expected each group in one split, found group 0 in 2 of them; that leaks"),
        (
            {"split": {"array": "part", "train": [0]}},
            {},
            "toy.npz: part: expected each value in split.train, .validation or .test, found 2",
        ),
        (
            {"split": {"array": "part", "train": [0, 2], "test": [2]}},
            {},
            "split: expected each value in one of",
        ),
        ({"split": {"array": "part", "train": ["0"], "test": [2]}}, {}, "part: expected each value in split.train"),
        ({"split": {"array": "part", "train": 0}}, {}, "split.train: expected a list, found 0"),
        ({"split": {"array": "blood", "train": [0]}}, {}, "blood (split.array): expected integers or strings"),
        (
            {"validation": None},
            {},
            "found none in validation; list its values under split.validation, or set",
        ),
        ({"split": None}, {}, "expected samples in every split, found none in test"),
        (
            {"validation": {"share": 0.01}},
            {},
            "validation.share: expected a share that selects some but not all of the 8 groups",
        ),
        ({"validation": {"share": 1}}, {}, "validation.share: expected less than 1, found 1"),
    ],
)
def test_each_fault_is_one_line_that_names_it(keys, content, line, tmp_path):
    assert line in refused(changed(tmp_path, keys, content))


def test_faults_of_the_description_file(tmp_path):
    path = root(tmp_path)
    good = path.read_text()
    path.write_text(good + "label: label\n")
    assert "label: this key is repeated" in refused(path)
    path.write_text("a: [")
    assert "is not valid YAML" in refused(path)
    path.write_text("- a\n")
    assert "must contain a mapping of keys, found list" in refused(path)
    path.write_bytes(b"\xff\xfe")
    assert str(path) in refused(path)
    path.unlink()
    assert str(path) in refused(path)
    with pytest.raises(DataError, match="expects the YAML file that describes the arrays, found none"):
        Npz().load(Npz.Params(name="npz"), None, 0)
    with pytest.raises(DataError, match=f"{tmp_path}"):
        Npz().load(Npz.Params(name="npz"), tmp_path, 0)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    path = root(tmp_path / "data")
    shutil.move(path.parent / "toy.npz", tmp_path / "toy.npz")
    (path.parent / "toy.npz").symlink_to(tmp_path / "toy.npz")
    assert "which leads out of it" in refused(path)


def test_a_damaged_file_is_one_line_and_never_passes_in_silence(tmp_path):
    path = root(tmp_path)
    file, good = path.parent / "toy.npz", (path.parent / "toy.npz").read_bytes()
    whole, draw = read_npz(path), np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(good)
        at = int(draw.integers(len(bad)))
        bad = (
            bad[:at]
            if draw.random() < 0.2
            else bad[:at] + bytes([bad[at] ^ (1 << int(draw.integers(8)))]) + bad[at + 1 :]
        )
        file.write_bytes(bytes(bad))
        try:
            found = read_npz(path)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            continue
        for name in whole.spec.names:  # a byte that carries nothing, such as a date
            assert np.asarray(found.arrays[name]).tobytes() == np.asarray(whole.arrays[name]).tobytes()
        for column in ("labels", "split", "cluster_ids"):
            assert np.array_equal(getattr(found, column), getattr(whole, column))


# --- real data ------------------------------------------------------------------------------------------------------


def real(name: str, file: str, base: Path) -> Dataset:
    """The data set of a shipped description, whose file is at ../shared/data."""
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not at ../shared/data")
    shutil.copy(DATA / file, base / file)
    shutil.copy(ROOT / "configs" / "har" / name, base / name)
    return read_npz(base / name)


HAPT_TRAIN = [1226, 1073, 987, 1293, 1423, 1413]
HAPT_TEST = [496, 471, 420, 508, 556, 545]
SPSW_TRAIN = [101, 252, 235, 430, 1087]
SPSW_TEST = [59, 92, 90, 183, 493]


def test_hapt_has_its_published_windows(tmp_path):
    dataset = real("hapt_npz.yaml", "hapt_ucihar.npz", tmp_path)
    held_out = dataset.split == 2
    assert (int((~held_out).sum()), int(held_out.sum())) == (7415, 2996)
    assert np.bincount(dataset.labels[~held_out]).tolist() == HAPT_TRAIN
    assert np.bincount(dataset.labels[held_out]).tolist() == HAPT_TEST
    assert set(dataset.cluster_ids[held_out].tolist()) == {2, 4, 9, 10, 12, 13, 18, 20, 24}
    assert len(np.unique(dataset.cluster_ids[dataset.members(0)])) == 17
    assert len(np.unique(dataset.cluster_ids[dataset.members(1)])) == 4
    assert dataset.spec.classes[0] == "WALKING" and dataset.spec.classes[5] == "LAYING"
    assert {m.name: m.shape for m in dataset.spec.modalities} == {"acc": (128, 3), "gyro": (128, 3)}
    parts = [overlapping_halves(np.asarray(dataset.arrays["gyro"])[dataset.members(part)]) for part in range(3)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def overlapping_halves(windows: np.ndarray) -> set[bytes]:
    """Two windows that overlap by half share one of these."""
    return {half.tobytes() for half in (*windows[:, :64], *windows[:, 64:])}


def test_spsw_has_its_windows(tmp_path):
    dataset = real("spsw_npz.yaml", "spsw_har.npz", tmp_path)
    held_out = dataset.split == 2
    assert np.bincount(dataset.labels[~held_out]).tolist() == SPSW_TRAIN
    assert np.bincount(dataset.labels[held_out]).tolist() == SPSW_TEST
    assert [len(np.unique(dataset.cluster_ids[dataset.members(part)])) for part in range(3)] == [13, 3, 7]
    assert {m.name: m.shape for m in dataset.spec.modalities} == {"phone": (64, 6), "watch": (64, 6)}

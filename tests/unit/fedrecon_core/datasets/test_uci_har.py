"""Data set ``uci_har``: filters against SciPy's own, windows against a loop, both layouts, splits, and each fault."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import signal as reference

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.uci_har import OVERLAP, VALIDATION, OwnNorm, UciHar
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import file_faults
from fedrecon_core.preparation.raw_readers import hapt
from fedrecon_core.preparation.raw_readers.har_windows import CLASSES
from fedrecon_core.registry import CORE_PACKAGES, discover
from tests.helpers.raw_uci_har import TRAIN, motion, prepared, write_hapt, write_uci
from tests.helpers.runs import caller

discover(CORE_PACKAGES)

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "hapt_ucihar.npz"
WRITERS = {"uci": write_uci, "hapt": write_hapt}
REBUILT = (
    "layout hapt: the 96 windows are rebuilt from the recordings of HAPT; the official files of UCI-HAR have 10,299, "
    "with other cuts and labels, so scores are not comparable with those on the official windows."
)
REMARKS = {"uci": (), "hapt": (REBUILT,)}
"""Layout -> the known faults of a folder prepared from it."""


@pytest.fixture(scope="module")
def raws(tmp_path_factory) -> dict[str, Path]:
    """Layout -> a raw folder."""
    return {layout: write(tmp_path_factory.mktemp(layout) / "raw") for layout, write in WRITERS.items()}


@pytest.fixture(scope="module")
def folders(raws) -> dict[str, Path]:
    """Layout -> the folder prepared from it, total acceleration included."""
    return {layout: prepared(raw, raw.parent / "total", total=True) for layout, raw in raws.items()}


def load(root: Path, protocol: str = "default", seed: int = 0) -> Dataset:
    return UciHar().load(UciHar.Params(name="uci_har", protocol=protocol), root, seed)


# --- filters --------------------------------------------------------------------------------------------------------


def wave(hertz: float, rows: int = 1000) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(rows) / 50)[:, None]


def strength(values: np.ndarray) -> float:
    """Amplitude of the middle of a wave."""
    return float(np.sqrt(2 * np.mean(values[200:-200] ** 2)))


def test_noise_filter_is_a_median_of_3_and_a_third_order_butterworth_both_ways():
    values = np.random.default_rng(0).normal(size=(400, 3))
    inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    numerator, denominator = reference.butter(3, 20 / 25)
    expected = reference.filtfilt(numerator, denominator, np.concatenate([values[:1], inner, values[-1:]]), axis=0)
    found = hapt.denoise(values)
    assert found[50:-50] == pytest.approx(expected[50:-50], abs=1e-9)  # paddings at the ends differ
    assert not np.allclose(found, values, atol=0.1)


def test_body_motion_passes_and_a_tremble_near_the_limit_is_damped():
    numerator, denominator = reference.butter(3, 20 / 25)
    gains = abs(reference.freqz(numerator, denominator, worN=[5, 23], fs=50)[1]) ** 2
    assert [strength(hapt._low_pass(wave(hertz), 20)) for hertz in (5, 23)] == pytest.approx(gains, rel=1e-2)
    assert gains[0] > 0.999 and gains[1] < 0.02
    found = [strength(hapt.denoise(wave(hertz))) for hertz in (5, 23)]
    assert found[0] > 0.9  # the median flattens tips
    assert found[1] < 0.2  # and makes something slow of what is fast


def test_a_constant_is_gravity_and_a_stride_is_the_body():
    body, total = hapt.body_and_total(np.array([0.9, -0.1, 0.3]) + np.zeros((500, 3)))
    assert body == pytest.approx(0, abs=1e-9)
    assert total == pytest.approx(np.tile([0.9, -0.1, 0.3], (500, 1)), abs=1e-9)
    body, total = hapt.body_and_total(1 + wave(5))
    assert strength(body) == pytest.approx(strength(total - 1), rel=0.01)
    slow, _ = hapt.body_and_total(wave(0.05, 4000))
    assert strength(slow) < 0.01


def test_filters_do_not_shift_in_time():
    impulse = np.zeros((401, 1))
    impulse[199:202] = 1  # three values pass the median
    smooth = hapt.denoise(impulse)[:, 0]
    assert smooth == pytest.approx(smooth[::-1], abs=1e-6)
    body, total = hapt.body_and_total(impulse)
    gravity = (total - body)[:, 0]
    assert gravity.argmax() == 200
    assert 0 < gravity.max() < 0.2


def test_gravity_filter_is_that_of_the_rebuilt_recordings():
    """The rebuild at hand was made by others: in the middle of long segments its gravity must be what ours is."""
    if not DATA.exists():
        pytest.skip("hapt_ucihar.npz is not at ../shared/data")
    with np.load(DATA) as file:
        windows, experiment = file["acc"][:400].astype(np.float64), file["experiment"][:400]
    follows = (windows[1:, :64] == windows[:-1, 64:]).all(axis=(1, 2)) & (experiment[1:] == experiment[:-1])
    borders = np.flatnonzero(np.concatenate([[True], ~follows, [True]]))
    long = [(begin, end) for begin, end in pairwise(borders) if end - begin >= 14]
    assert len(long) > 5
    for begin, end in long:
        rows = np.concatenate([windows[begin], *windows[begin + 1 : end, 64:]])
        middle = slice(len(rows) // 3, 2 * len(rows) // 3)
        gravity = rows[:, 3:] - rows[:, :3]
        found = hapt._low_pass(rows[:, 3:], hapt.GRAVITY)
        assert np.abs(found - gravity)[middle].max() < 2e-3  # float16


# --- windows --------------------------------------------------------------------------------------------------------


def placed(begin: int, end: int) -> list[int]:
    """The starts, found by trying every row."""
    return [row for row in range(begin, end) if (row - begin) % 64 == 0 and all(r < end for r in (row, row + 127))]


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 191, 192, 193, 255, 256, 1000])
def test_windows_lie_wholly_in_their_segment(rows):
    assert hapt.window_starts(37, 37 + rows).tolist() == placed(37, 37 + rows)


def test_windows_of_the_basic_activities_alone_are_cut(raws):
    windows = hapt.read_windows(raws["hapt"], total=False)
    rows = np.loadtxt(raws["hapt"] / "RawData" / "labels.txt", dtype=int)
    expected = [
        (experiment, user, activity - 1, start)
        for experiment, user, activity, first, last in rows.tolist()
        if activity <= 6
        for start in placed(first - 1, last)
    ]
    columns = (windows.ids // 1_000_000, windows.subject, windows.activity, windows.ids % 1_000_000)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert len(expected) == 8 * 6 * 2


# --- the data set ---------------------------------------------------------------------------------------------------


def test_uci_windows_are_the_files_rows_in_order(folders):
    dataset = load(folders["uci"])
    for column, (modality, shift) in enumerate((("acc", 0), ("gyro", 100))):
        window = motion(3 + shift, 2, 192)[64 : 128 + 64]
        sample = 12 + 2 * 2 + 1  # the second subject's third activity, its second window
        assert dataset.cluster_ids[sample] == 3 and dataset.labels[sample] == 2, column
        assert dataset.arrays[modality][sample][:, :3] == pytest.approx(window, abs=1e-6)
    assert dataset.arrays["acc"][17][:, 3:] == pytest.approx(motion(203, 2, 192)[64:192], abs=1e-6)


def test_hapt_windows_are_cut_from_the_filtered_recording(raws, folders):
    dataset = load(folders["hapt"])
    recording = np.loadtxt(raws["hapt"] / "RawData" / "acc_exp02_user02.txt")
    body, total = hapt.body_and_total(recording)
    sample = int(np.flatnonzero(dataset.ids == 2_000_000 + 1 * 232 + 40 + 64)[0])
    assert dataset.cluster_ids[sample] == 2 and dataset.labels[sample] == 1
    window = slice(232 + 40 + 64, 232 + 40 + 64 + 128)
    assert dataset.arrays["acc"][sample] == pytest.approx(np.concatenate([body, total], axis=1)[window], abs=1e-6)
    rotation = hapt.denoise(np.loadtxt(raws["hapt"] / "RawData" / "gyro_exp02_user02.txt"))
    assert dataset.arrays["gyro"][sample] == pytest.approx(rotation[window], abs=1e-6)


@pytest.mark.parametrize("layout", WRITERS)
def test_specification_and_splits(layout, raws, folders, tmp_path):
    dataset = load(folders[layout])
    assert dataset.spec.classes == (
        "WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING"
    )  # fmt: skip
    assert [(m.name, m.kind, m.shape, m.scale) for m in dataset.spec.modalities] == [
        ("acc", "sequence", (128, 6), "standard"),
        ("gyro", "sequence", (128, 3), "standard"),
    ]
    subjects = [set(dataset.cluster_ids[dataset.members(part)].tolist()) for part in range(3)]
    assert subjects == [{1, 3}, {7, 16, 23, 29}, {2, 4}]
    assert np.array_equal(dataset.natural_ids, dataset.cluster_ids)
    plain = load(prepared(raws[layout], tmp_path / "plain"))
    assert plain.spec["acc"].shape == (128, 3)
    assert np.asarray(plain.arrays["acc"]).tobytes() == np.asarray(dataset.arrays["acc"])[..., :3].tobytes()


def test_both_layouts_are_recognized_and_may_be_named(raws, tmp_path):
    for layout, raw in raws.items():
        for keys in ({}, {"layout": layout}):
            assert file_faults(raw, UciHar.expected_files(UciHar.Raw(**keys), raw)) == []
    both = tmp_path / "both"
    write_hapt(write_uci(both))
    with pytest.raises(DataError, match="found uci and hapt; set layout to one of them"):
        UciHar.expected_files(UciHar.Raw(), both)
    assert file_faults(both, UciHar.expected_files(UciHar.Raw(layout="hapt"), both)) == []
    with pytest.raises(DataError, match="found none of them"):
        UciHar.expected_files(UciHar.Raw(), tmp_path)
    assert (
        "expected a folder, found nothing"
        in file_faults(tmp_path / "no", UciHar.expected_files(UciHar.Raw(), tmp_path / "no"))[0]
    )


@pytest.mark.parametrize("layout", WRITERS)
def test_the_layout_is_found_and_rebuilt_windows_stay_a_known_fault_of_the_folder(layout, raws, folders):
    raw_data = UciHar.read_raw(UciHar.Raw(), raws[layout], raws[layout].parent)
    what = {"uci": "the files of UCI-HAR", "hapt": "the recordings of HAPT"}[layout]
    assert raw_data.found == f"layout {layout}: {what}, 96 windows"
    assert raw_data.faults == load(folders[layout]).faults == REMARKS[layout]


def test_rebuilt_windows_have_the_specification_of_the_official_ones(folders):
    """A remark is no part of what a federation agrees on: its hash and its runs are the same."""
    assert load(folders["hapt"]).spec.digest() == load(folders["uci"]).spec.digest()


def test_the_official_test_subjects_are_those_of_the_rebuild():
    assert set(VALIDATION).isdisjoint(hapt.TEST)
    if not DATA.exists():
        pytest.skip("hapt_ucihar.npz is not at ../shared/data")
    with np.load(DATA) as file:
        subject, split = file["subject"], file["split"]
    assert tuple(np.unique(subject[split == 2])) == hapt.TEST
    training = np.unique(subject[split == 0])
    assert tuple(training[4::5]) == VALIDATION


# --- split integrity ------------------------------------------------------------------------------------------------


def halves(dataset: Dataset, part: int, modality: str = "gyro") -> set[bytes]:
    """The first and the second half of every window of a split: two windows that overlap share one."""
    windows = load_raw(dataset, modality)[dataset.rows[modality][dataset.members(part)]]
    return {half.tobytes() for half in (*windows[:, :64], *windows[:, 64:])}


def load_raw(dataset: Dataset, modality: str) -> np.ndarray:
    """The windows as they are stored, whatever a protocol makes of them."""
    array = dataset.arrays[modality]
    return np.asarray(array._stored if isinstance(array, OwnNorm) else array)


@pytest.mark.parametrize("layout", WRITERS)
def test_by_default_subjects_are_whole_and_windows_of_two_splits_do_not_overlap(layout, folders):
    dataset = load(folders[layout])
    parts = [halves(dataset, part) for part in range(3)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert all(
        len(np.unique(dataset.split[dataset.cluster_ids == subject])) == 1 for subject in np.unique(dataset.cluster_ids)
    )
    assert len(parts[0]) == 3 * len(dataset.members(0)) / 2  # windows that follow each other do share a half
    assert OVERLAP not in dataset.faults


@pytest.mark.parametrize("layout", WRITERS)
def test_fedmultimodal_draws_a_fifth_of_each_training_subject_and_declares_the_overlap(layout, folders):
    dataset = load(folders[layout], "fedmultimodal", seed=1)
    for subject in TRAIN:
        split = dataset.split[dataset.cluster_ids == subject]
        assert (len(split), int((split == 1).sum()), int((split == 0).sum())) == (12, 2, 10)
    assert set(dataset.cluster_ids[dataset.members(2)].tolist()) == {2, 4}
    assert halves(dataset, 0) & halves(dataset, 1)
    assert not halves(dataset, 2) & (halves(dataset, 0) | halves(dataset, 1))
    assert dataset.faults == (*REMARKS[layout], OVERLAP)


def test_fedmultimodal_validation_follows_the_seed(folders):
    one, same, other = (load(folders["uci"], "fedmultimodal", seed).split for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_fedmultimodal_normalises_each_axis_of_each_window(folders):
    plain, dataset = load(folders["uci"]), load(folders["uci"], "fedmultimodal")
    for name in ("acc", "gyro"):
        assert (dataset.spec[name].shape, dataset.spec[name].scale) == ((128, 3), "none")
        array, raw = dataset.arrays[name], np.asarray(plain.arrays[name])[..., :3].astype(np.float64)
        assert array.shape == raw.shape and array.dtype == np.float32 and len(array) == len(raw)
        whole = np.asarray(array)
        expected = (raw - raw.mean(axis=1, keepdims=True)) / (raw.std(axis=1, keepdims=True) + 1e-5)
        assert whole == pytest.approx(expected, abs=1e-5)
        chosen = np.array([5, 0, 5])
        assert np.array_equal(array[chosen], whole[chosen]) and np.array_equal(array[3:9:2], whole[3:9:2])


def test_fedmultimodal_reads_no_row_before_it_is_asked_for():
    class Counting:
        shape, dtype, asked = (9, 128, 6), np.dtype(np.float32), 0

        def __len__(self):
            return 9

        def __getitem__(self, index):
            self.asked += len(index)
            return np.ones((len(index), 128, 6), dtype=np.float32)

    stored = Counting()
    lazy = OwnNorm(stored)
    assert stored.asked == 0
    assert np.array_equal(lazy[np.array([3, 4])], np.zeros((2, 128, 3)))  # a constant has no deviation
    assert stored.asked == 2


# --- faults ---------------------------------------------------------------------------------------------------------


def refused(raw: Path, **keys: object) -> str:
    """The one line that the preparation of ``raw`` ends with."""
    shutil.rmtree(raw.parent / "out", ignore_errors=True)
    with pytest.raises(DataError) as caught:
        prepared(raw, raw.parent / "out", **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 1 5 1 200\n1 1 5 x 300\n", "labels.txt: line 2: expected 5 finite numbers, found 'x'"),
        ("1 1 5 1\n", "labels.txt: line 1: expected 5 finite numbers, found 4"),
        ("1 1 5 1 200 7\n", "labels.txt: line 1: expected 5 finite numbers, found 6"),
        ("1 1 5 1 nan\n", "labels.txt: line 1: expected 5 finite numbers, found 'nan'"),
        ("1 1 13 1 200\n", "row 1: expected an activity from 1 to 12, found 1 1 13 1 200"),
        ("1 1 5 200 1\n", "row 1: expected first row <= last row, from 1, found 1 1 5 200 1"),
        ("1 1 5 1 200.5\n", "row 1: expected integers, found 1 1 5 1 200.5"),
        (
            "1 1 5 1 200\n1 1 4 200 400\n",
            "row 2: expected a segment after the end of the previous one, found 1 1 4 200 400",
        ),
        ("1 1 5 1 99999\n", "acc_exp01_user01.txt: expected at least"),
        ("1 1 5 1 20\n", "labels.txt: expected segments of 128 rows or more, found none"),
        ("", "labels.txt: expected rows of 5 finite numbers, found an empty file"),
    ],
)
def test_faults_of_hapts_labels(text, line, tmp_path):
    raw = write_hapt(tmp_path / "raw")
    rest = (raw / "RawData" / "labels.txt").read_text()
    kept = "".join(f"{row}\n" for row in rest.splitlines() if not row.startswith("1 ")) if "99999" in text else ""
    (raw / "RawData" / "labels.txt").write_text(text + kept)
    assert line in refused(raw)


def test_faults_of_hapts_recordings(tmp_path):
    raw = write_hapt(tmp_path / "raw")
    path = raw / "RawData" / "gyro_exp03_user03.txt"
    good = path.read_text()
    path.unlink()
    faults = file_faults(raw, UciHar.expected_files(UciHar.Raw(), raw))
    assert faults == [
        f"{path}: expected the gyroscope of experiment 3, listed in RawData/labels.txt, found none",
    ]
    path.write_text(good.replace(" ", ";", 1))
    assert "gyro_exp03_user03.txt: line 1: expected 3 finite numbers" in refused(raw)
    path.write_bytes(b"\xff\xfe" + good.encode())
    assert "expected text in utf-8, found byte 0xff" in refused(raw)
    path.write_text("0 0 0\n" * 20)
    assert "expected at least 128 rows, found 20" in refused(raw)


def test_recordings_are_named_before_the_labels_are_there(tmp_path):
    (tmp_path / "RawData").mkdir()
    faults = file_faults(tmp_path, UciHar.expected_files(UciHar.Raw(), tmp_path))
    for name in ("activity_labels.txt", "labels.txt", "acc_exp*_user*.txt", "gyro_exp*_user*.txt"):
        assert sum(f"/{name}: expected" in fault for fault in faults) == 1
    assert len(faults) == 4


def test_faults_of_uci_files(tmp_path):
    raw = write_uci(tmp_path / "raw")
    inertial = raw / "train" / "Inertial Signals" / "body_acc_y_train.txt"
    good = inertial.read_text().splitlines(keepends=True)
    inertial.write_text("".join(good[:-1]))
    assert "body_acc_y_train.txt: expected 72 rows as in y_train.txt, found 71" in refused(raw)
    inertial.write_text("".join([*good[:-1], "1 2 3\n"]))
    assert "body_acc_y_train.txt: line 72: expected 128 finite numbers, found 3" in refused(raw)
    inertial.unlink()
    [fault] = file_faults(raw, UciHar.expected_files(UciHar.Raw(), raw))
    assert fault == f"{inertial}: expected body_acc, axis y, one window per row, found none"
    inertial.write_text("".join(good))
    (raw / "train" / "Inertial Signals" / "total_acc_x_train.txt").unlink()
    assert file_faults(raw, UciHar.expected_files(UciHar.Raw(), raw)) == []
    assert len(file_faults(raw, UciHar.expected_files(UciHar.Raw(total=True), raw))) == 1


def test_faults_of_uci_labels_and_subjects(tmp_path):
    raw = write_uci(tmp_path / "raw")
    activities, subjects = raw / "test" / "y_test.txt", raw / "test" / "subject_test.txt"
    good = activities.read_text(), subjects.read_text()
    activities.write_text("7\n" + good[0][2:])
    assert "y_test.txt: expected activities from 1 to 6, found 7" in refused(raw)
    activities.write_text(good[0])
    subjects.write_text(good[1] + "2\n")
    assert "subject_test.txt: expected 24 rows as in y_test.txt, found 25" in refused(raw)
    subjects.write_text(good[1].replace("4", "3"))
    assert "expected each subject in train or in test, found 3 in both" in refused(raw)


def test_another_order_of_the_activities_is_refused(tmp_path):
    raw = write_uci(tmp_path / "raw")
    path = raw / "activity_labels.txt"
    path.write_text(path.read_text().replace("4 SITTING", "4 STANDING"))
    assert f"{path}: expected '4 SITTING', found '4 STANDING'" in refused(raw)
    path.write_text("1 WALKING\n")
    assert "expected '2 WALKING_UPSTAIRS', found 'nothing'" in refused(raw)


@pytest.mark.parametrize(
    ("validation", "found"), [((2,), "2"), ((7, 99), "99"), ((), "none"), (tuple(TRAIN), "all of them")]
)
def test_validation_subjects_are_training_subjects(validation, found, raws):
    with pytest.raises(DataError, match=f"validation: expected some of the training subjects .* found {found}$"):
        UciHar.read_raw(UciHar.Raw(validation=validation), raws["uci"], Path())


def test_a_folder_of_another_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a folder prepared for 'uci_har', found none"):
        UciHar().load(UciHar.Params(name="uci_har"), None, 0)
    with pytest.raises(DataError, match="fedrecon data prepare uci_har"):
        load(tmp_path)


# --- data set ``uci_har`` from the windows of an .npz file, and each fault of such a file ----------------------------


discover(CORE_PACKAGES)


def arrays_of_windows(**changes):
    """Two windows of each of six subjects, two of whom are official test subjects, in order of the activities."""
    subjects = np.repeat([1, 2, 3, 4, 5, 7], 2)
    stream = np.random.default_rng(0)
    return {
        "acc": stream.normal(size=(12, 128, 6)).astype(np.float16),
        "gyro": stream.normal(size=(12, 128, 3)).astype(np.float16),
        "label": np.arange(12, dtype=np.int16) % 6,
        "subject": subjects.astype(np.int16),
        "split": np.where(np.isin(subjects, (2, 4)), 2, 0).astype(np.int8),
        "label_names": np.array(CLASSES),
        **changes,
    }


def saved(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "hapt_ucihar.npz", **arrays_of_windows(**changes))
    return folder


@pytest.mark.quick
def test_windows_of_an_npz_file_become_a_prepared_folder(tmp_path):
    root = prepared(saved(tmp_path / "raw"), tmp_path / "out", validation=(7,))
    dataset = UciHar().load(UciHar.Params(name="uci_har"), root, seed=0)
    known = arrays_of_windows()
    assert np.array_equal(np.asarray(dataset.arrays["acc"]), known["acc"][..., :3].astype(np.float32))
    assert np.array_equal(np.asarray(dataset.arrays["gyro"]), known["gyro"].astype(np.float32))
    assert np.array_equal(dataset.labels, known["label"]) and np.array_equal(dataset.cluster_ids, known["subject"])
    assert np.array_equal(dataset.split, np.where(known["subject"] == 7, 1, known["split"]))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.full(12, 6)}, "label: expected one of"),
        ({"split": np.full(12, 1)}, r"split: expected one of \[0, 2\], found 1"),
        ({"gyro": np.zeros((12, 64, 3))}, r"gyro: expected \[12, 128, 3 or more\], found \[12, 64, 3\]"),
        ({"acc": np.zeros((11, 128, 6))}, "expected 12 rows"),
        ({"split": np.array([0, 2] + [0] * 10)}, "split: expected each subject in one split, found 1 in both"),
        ({"label_names": np.array(CLASSES[::-1])}, "label_names: expected WALKING,"),
    ],
)
def test_a_fault_in_an_npz_file_is_named(changes, message, tmp_path):
    with pytest.raises(DataError, match=message):
        prepared(saved(tmp_path / "raw", **changes), tmp_path / "out", validation=(7,))


@pytest.mark.quick
def test_prepare_and_describe_tell_that_the_windows_are_rebuilt(tmp_path, monkeypatch, capsys):
    """Nobody takes them for the official files, when they are prepared or later."""
    fault = "layout npz: the 12 windows are rebuilt from the recordings of HAPT; the official files of"
    command = caller(monkeypatch, capsys)
    raw, out = saved(tmp_path / "raw"), tmp_path / "out"
    code, printed, _ = command("data", "prepare", "uci_har", "--raw", raw, "--out", out, "--set", "validation=[7]")
    assert code == 0
    assert "found layout npz: hapt_ucihar.npz, 12 windows\n" in printed
    assert f"known fault: {fault}" in printed
    assert fault in " ".join(command("data", "describe", out)[1].split())
    assert UciHar().load(UciHar.Params(name="uci_har"), out, seed=0).faults[0].startswith(fault)

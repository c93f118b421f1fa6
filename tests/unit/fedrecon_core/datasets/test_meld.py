"""MELD from its official files: which utterances, whose, with which rows; the protocol of the benchmark; each fault."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from fedrecon_core.config import parse
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.datasets.meld import Meld, MeldParams, NormedFrames, benchmark_samples
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.preparation.expected_files import file_faults
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.registry import CORE_PACKAGES, DATA_PACKAGES, discover
from server.commands.data import keys_of
from server.runs.setup import load_config
from tests.helpers import raw_meld
from tests.helpers.features import ToyAudio, ToyAudioParams, text_row, toy_features

discover((*CORE_PACKAGES, "strategies"))

FOUR = ["neutral", "sadness", "joy", "anger"]
CONFIGS = Path(__file__).resolve().parents[4] / "configs"
PARTS = ("train", "dev", "test")


def load(root: Path, **keys: Any) -> Dataset:
    return Meld().load(MeldParams(name="meld", **keys), root, 0)


def read_raw(raw: Path, **keys: Any) -> Any:
    """The raw data under toy features."""
    with toy_features():
        checked = Meld.Raw(**{"audio": "toy_audio", "text": "toy_text", "missing_audio": "allow", **keys})
        return Meld.read_raw(checked, raw, raw.parent / "cache")


def tables(raw: Path) -> pd.DataFrame:
    """The lines of the four classes in all parts, read by another reader, with their split and season's speaker."""
    read = [pd.read_csv(raw / f"{part}_sent_emo.csv").assign(split=split) for split, part in enumerate(PARTS)]
    utterances = pd.concat(read, ignore_index=True)
    utterances["person"] = utterances["Season"].astype(str) + utterances["Speaker"]
    return utterances[utterances["Emotion"].isin(FOUR)].reset_index(drop=True)


def frames(dataset: Dataset, name: str, sample: int) -> np.ndarray:
    borders, row = dataset.offsets[name], dataset.rows[name][sample]
    return np.asarray(dataset.arrays[name][borders[row] : borders[row + 1]])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_meld.write(tmp_path_factory.mktemp("meld") / "raw")


@pytest.fixture(scope="module")
def root(raw: Path) -> Path:
    return raw_meld.prepared(raw, raw.parent / "prepared", raw.parent / "cache")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A raw folder in which some speakers say more than ten things in every part and others do not; prepared."""
    base = tmp_path_factory.mktemp("large")
    written = raw_meld.write(base / "raw", (20, 14, 12))
    return written, raw_meld.prepared(written, base / "prepared", base / "cache")


@pytest.fixture
def broken(raw: Path, tmp_path: Path) -> Path:
    """A copy of the raw folder, to be spoilt."""
    return Path(shutil.copytree(raw, tmp_path / "raw"))


# --- what a sample is -----------------------------------------------------------------------------------------------


def test_samples_are_the_utterances_of_the_four_classes_in_the_order_of_the_tables(raw, root):
    dataset, utterances = load(root), tables(raw)
    assert dataset.spec.classes == tuple(FOUR)
    assert dataset.labels.tolist() == [FOUR.index(emotion) for emotion in utterances["Emotion"]]
    assert dataset.split.tolist() == utterances["split"].tolist()


def test_a_group_is_a_dialogue_and_dialogues_of_different_splits_are_different(raw, root):
    dataset, utterances = load(root), tables(raw)
    names = utterances["split"].astype(str) + "-" + utterances["Dialogue_ID"].astype(str)
    assert (
        len({*zip(names, dataset.cluster_ids.tolist(), strict=True)})
        == names.nunique()
        == len(np.unique(dataset.cluster_ids))
    )


def test_a_natural_id_is_a_speaker_in_a_season(raw, root):
    dataset, utterances = load(root), tables(raw)
    pairs = {*zip(utterances["person"], dataset.natural_ids.tolist(), strict=True)}
    assert len(pairs) == utterances["person"].nunique() == len(np.unique(dataset.natural_ids))


def test_rows_are_the_words_and_the_wav_of_the_very_utterance(raw, root):
    dataset, utterances = load(root), tables(raw)
    hear = ToyAudio(ToyAudioParams())
    for sample in range(len(utterances)):
        line = utterances.iloc[sample]
        assert np.array_equal(frames(dataset, "text", sample), text_row(line["Utterance"]))
        if dataset.rows["audio"][sample] >= 0:
            path = raw / PARTS[line["split"]] / f"dia{line['Dialogue_ID']}_utt{line['Utterance_ID']}.wav"
            expected = hear.extract([RawItem(path.read_bytes(), "")])[0]
            assert np.array_equal(frames(dataset, "audio", sample), expected)


def test_an_utterance_without_a_wav_really_lacks_audio(raw, root):
    dataset, utterances = load(root), tables(raw)
    lacking = utterances[dataset.rows["audio"] < 0]
    assert (lacking["split"].tolist(), lacking["Dialogue_ID"].tolist(), lacking["Utterance_ID"].tolist()) == (
        [1],
        [1],
        [4],
    )
    assert (dataset.rows["text"] >= 0).all()
    assert len(dataset.offsets["audio"]) - 1 == len(utterances) - 1


def test_audio_is_scaled_federation_wide_by_default(root):
    dataset = load(root)
    assert (dataset.spec["audio"].scale, dataset.spec["text"].scale, dataset.faults) == ("standard", "none", ())


def test_ids_do_not_depend_on_the_classes(raw, root, tmp_path):
    other = load(raw_meld.prepared(raw, tmp_path / "other", tmp_path / "cache", classes=("surprise", "joy")))
    assert other.spec.classes == ("surprise", "joy")
    utterances = {part: pd.read_csv(raw / f"{part}_sent_emo.csv") for part in PARTS}
    counts = [sum(table["Emotion"].isin([name]).sum() for table in utterances.values()) for name in other.spec.classes]
    assert np.bincount(other.labels).tolist() == counts
    four = load(root)
    assert {*other.ids[other.labels == 1].tolist()} == {*four.ids[four.labels == FOUR.index("joy")].tolist()}


@pytest.mark.parametrize("places", [raw_meld.PARTS, ("train_splits", "dev_splits_complete", "test/waves")])
def test_wavs_are_found_in_the_official_folders_of_the_clips(broken, places):
    for part, place in zip(PARTS, places, strict=True):
        if part != place:
            (broken / part).rename(broken / "moved")
            (broken / place).parent.mkdir(parents=True, exist_ok=True)
            (broken / "moved").rename(broken / place)
    found = read_raw(broken)
    assert file_faults(broken, Meld.expected_files(Meld.Raw.model_construct(), broken)) == []
    assert (~found.samples.present[:, 0]).sum() == 1


def test_leftovers_of_another_encoding_are_read_as_what_they_meant(broken):
    path = broken / "train_sent_emo.csv"
    clean = read_raw(broken)
    text = path.read_text(encoding="utf-8")
    assert "Oh “great”" in text and "I’m sorry" in text
    path.write_text(text.replace("’", "\x92").replace("“", "\x93").replace("”", "\x94"), encoding="utf-8")
    assert read_raw(broken).version == clean.version


def test_another_encoding_may_be_named(broken):
    clean = read_raw(broken)
    for part in PARTS:
        path = broken / f"{part}_sent_emo.csv"
        path.write_text(path.read_text(encoding="utf-8"), encoding="cp1252")
    with pytest.raises(DataError, match=r"train_sent_emo.csv: expected text in utf-8, found byte 0x9\d .*cp1252"):
        read_raw(broken)
    assert read_raw(broken, encoding="cp1252").version == clean.version


def test_a_byte_order_mark_is_no_part_of_a_column(broken):
    clean = read_raw(broken)
    path = broken / "dev_sent_emo.csv"
    lines = raw_meld.rows("dev", 3)
    first = [{"Speaker": line.pop("Speaker"), **line} for line in lines]
    raw_meld.write_table(path, first, "utf-8-sig")
    assert read_raw(broken).version == clean.version


def test_an_unfinished_preparation_knows_other_texts_and_other_sounds(broken):
    digest = read_raw(broken).digest()
    raw_meld.write_wav(broken / "test/dia0_utt0.wav", 0.5, 8)
    sound = read_raw(broken).digest()
    path = broken / "test_sent_emo.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("Okay", "Well"), encoding="utf-8")
    assert len({digest, sound, read_raw(broken).digest()}) == 3


# --- speakers and the protocol --------------------------------------------------------------------------------------


def test_rare_speakers_may_be_left_out_of_training_alone(large):
    raw, root = large
    utterances = tables(raw)
    spoken = utterances[utterances["split"] == 0].groupby("person").size()
    frequent = spoken[spoken >= 11].index
    kept = (utterances["split"] > 0) | utterances["person"].isin(frequent)
    whole, dataset = load(root), load(root, min_utterances=11)
    assert 0 < len(frequent) < len(spoken)
    assert dataset.ids.tolist() == whole.ids[kept].tolist()
    assert dataset.labels.tolist() == whole.labels[kept].tolist()
    assert dataset.natural_ids.tolist() == whole.natural_ids[kept].tolist()
    assert np.array_equal(dataset.rows["audio"], whole.rows["audio"][kept])


def test_the_limit_of_the_benchmark_is_between_ten_and_eleven(large):
    spoken = np.unique_counts(load(large[1]).natural_ids[load(large[1]).split == 0]).counts
    for least in (int(spoken.min()), int(spoken.min()) + 1):
        dataset = load(large[1], min_utterances=least)
        assert len(np.unique(dataset.natural_ids[dataset.split == 0])) == (spoken >= least).sum()


def test_more_utterances_than_anyone_has_is_a_fault(root):
    with pytest.raises(DataError, match=r"data.min_utterances: expected a speaker with 500 .*, found at most \d+"):
        load(root, min_utterances=500)


def test_the_protocol_takes_heard_utterances_of_speakers_with_more_than_ten_in_the_split(large):
    raw, root = large
    utterances = tables(raw)
    silent = (utterances["split"] == 1) & (utterances["Dialogue_ID"] == 1) & (utterances["Utterance_ID"] == 4)
    utterances["heard"] = ~silent
    spoken = utterances[utterances["heard"]].groupby(["split", "person"]).size()
    wanted = [
        row.heard and spoken.get((row.split, row.person), 0) > 10
        for row in utterances[["split", "person", "heard"]].itertuples()
    ]
    dataset = load(root, protocol="fedmultimodal")
    assert dataset.ids.tolist() == load(root).ids[wanted].tolist()
    assert all(0 < len(dataset.members(split)) < (utterances["split"] == split).sum() for split in range(3))
    assert dataset.exists().all()


def test_the_protocol_normalises_by_speaker_in_training_and_by_utterance_in_the_rest(large):
    dataset, plain = load(large[1], protocol="fedmultimodal"), load(large[1])
    place = {number: index for index, number in enumerate(plain.ids.tolist())}
    stored = [frames(plain, "audio", place[number]) for number in dataset.ids.tolist()]
    for sample, number in enumerate(dataset.ids.tolist()):
        held_out = dataset.split[sample] > 0
        same = (dataset.natural_ids == dataset.natural_ids[sample]) & (dataset.split == 0)
        unit = stored[sample] if held_out else np.concatenate([stored[i] for i in np.flatnonzero(same)])
        unit = unit.astype(np.float64)
        expected = (stored[sample] - unit.mean(0)) / (unit.std(0) + 1e-5)
        assert np.allclose(frames(dataset, "audio", sample), expected, rtol=1e-3, atol=1e-3), number
    assert dataset.spec["audio"].scale == "none"
    assert len(dataset.faults) == 2 and all("protocol fedmultimodal" in fault for fault in dataset.faults)


def test_normed_frames_read_alike_by_slice_by_position_and_as_a_whole(large):
    audio = load(large[1], protocol="fedmultimodal").arrays["audio"]
    assert isinstance(audio, NormedFrames)
    whole = np.asarray(audio)
    chosen = np.array([3, 0, len(audio) - 1, 3])
    assert np.array_equal(audio[chosen], whole[chosen])
    assert np.array_equal(audio[5:20], whole[5:20])
    assert whole.dtype == audio.dtype == np.float32 and whole.shape == audio.shape


def test_the_protocol_leaves_no_dialogue_in_two_splits(large):
    dataset = load(large[1], protocol="fedmultimodal")
    parts = [set(dataset.cluster_ids[dataset.members(split)].tolist()) for split in range(3)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_the_protocol_needs_frequent_speakers_in_every_split(root):
    expected = r"data.protocol: fedmultimodal expects speakers with more than 10 .*; use protocol: default"
    with pytest.raises(DataError, match=expected):
        load(root, protocol="fedmultimodal")


def test_the_protocol_has_its_own_filter():
    with pytest.raises(ValidationError, match="expected its default, 0, with protocol"):
        MeldParams(name="meld", protocol="fedmultimodal", min_utterances=5)


def test_a_site_is_a_speaker_by_the_natural_partition(large):
    dataset = load(large[1], protocol="fedmultimodal")
    people = np.unique(dataset.natural_ids[dataset.split == 0])
    settings = [f"data.root={large[1]}", f"sites.count={len(people)}"]
    config = load_config(CONFIGS / "fedmultimodal/meld.yaml", settings)
    shares = allocate(dataset, config).train.values()
    held = sorted(tuple(np.unique(dataset.natural_ids[share.samples]).tolist()) for share in shares)
    assert held == [(person,) for person in people.tolist()]


@pytest.mark.parametrize("level", ["none", "site", "profile"])
def test_the_protocol_takes_masks_that_hide_whole_speakers(large, level):
    assert allocate(load(large[1], protocol="fedmultimodal"), masked(large[1], level)).train


@pytest.mark.parametrize("level", ["sample", "coupled"])
def test_a_mask_that_hides_a_part_of_a_speaker_is_refused_by_the_protocol(large, level):
    dataset = load(large[1], protocol="fedmultimodal")
    expected = rf"missing.train.level: expected none or site or profile, since each audio value .* found {level}; use"
    with pytest.raises(ConfigError, match=expected):
        allocate(dataset, masked(large[1], level))
    allocate(load(large[1]), masked(large[1], "sample"))


def test_sites_that_share_a_speaker_are_refused_where_one_may_hide_what_another_shows(large):
    dataset = load(large[1], protocol="fedmultimodal")
    with pytest.raises(ConfigError, match=r"data.partition: expected natural with missing.train.level site.*found iid"):
        allocate(dataset, masked(large[1], "site", "iid"))
    allocate(dataset, masked(large[1], "none", "iid"))


def masked(root: Path, level: str, partition: str = "natural") -> Any:
    """The config of the benchmark with masks of a level in training."""
    dataset = load(root, protocol="fedmultimodal")
    count = len(np.unique(dataset.natural_ids[dataset.split == 0]))
    keys = {
        "none": {},
        "site": {"rate": 0.5},
        "sample": {"rate": 0.5},
        "coupled": {},
        "profile": {"profile": [{"sites": count, "modalities": ["text"]}]},
    }
    settings = [f"data.root={root}", f"sites.count={count}", f"data.partition={partition}"]
    config = load_config(CONFIGS / "fedmultimodal/meld.yaml", settings).model_dump(mode="json")
    config["missing"] = {"empty": "skip", "train": {"level": level, **keys[level]}}
    return parse(config)


def test_a_speaker_is_measured_when_one_of_the_frames_is_read():
    class Counting:
        shape, dtype, asked = (9, 2), np.dtype(np.float32), 0

        def __len__(self):
            return 9

        def __getitem__(self, index):
            found = np.arange(18, dtype=np.float32).reshape(9, 2)[index]
            self.asked += len(found)
            return found

    stored = Counting()
    lazy = NormedFrames(stored, np.array([0, 2, 5, 9]), np.array([0, 1, 0]))
    assert stored.asked == 0
    middle = lazy[np.array([3])]
    assert stored.asked == 1 + 3 and np.array_equal(middle, np.zeros((1, 2)))
    lazy[np.array([2, 4])]
    assert stored.asked == 4 + 2  # known by now


# --- faults ---------------------------------------------------------------------------------------------------------


def test_an_empty_folder_reports_every_expected_file(tmp_path):
    faults = file_faults(tmp_path, Meld.expected_files(Meld.Raw.model_construct(), tmp_path))
    assert [Path(fault.split(": expected")[0]).name for fault in faults[:3]] == [f"{p}_sent_emo.csv" for p in PARTS]
    assert len(faults) == 6
    clips = ("train_splits", "dev_splits_complete", "output_repeated_splits_test")
    for fault, part, folder in zip(faults[3:], PARTS, clips, strict=True):
        assert fault.startswith(f"{tmp_path / part}/*.wav: expected") and fault.endswith("found none")
        assert f"for f in {folder}/*.mp4; do ffmpeg" in fault and "-ac 1 -ar 16000" in fault


def test_missing_wavs_are_named(broken):
    for number in range(3):
        for utterance in range(4):
            (broken / f"dev/dia{number}_utt{utterance}.wav").unlink(missing_ok=True)
    with pytest.raises(DataError) as caught:
        read_raw(broken, missing_audio="refuse")
    line = str(caught.value)
    assert line.startswith(f"{broken / 'dev'}: expected a WAV file for each of the 15 dev utterances of the classes")
    assert "no dia0_utt0.wav, dia0_utt1.wav, dia0_utt2.wav" in line and "and 8 more" in line
    assert "dia110_utt7" in line and "missing_audio: allow" in line and "\n" not in line


def test_a_wav_is_only_needed_for_an_utterance_of_the_classes(broken):
    utterances = pd.read_csv(broken / "train_sent_emo.csv")
    other = utterances[utterances["Emotion"] == "surprise"].iloc[0]
    (broken / f"train/dia{other['Dialogue_ID']}_utt{other['Utterance_ID']}.wav").unlink()
    assert read_raw(broken).samples.present[:, 0].sum() == len(tables(broken)) - 1


def changed(path: Path, line: int, **cells: Any) -> None:
    """Other cells in one line (from 0, without the header) of a table."""
    utterances = pd.read_csv(path, dtype=str)
    for column, value in cells.items():
        utterances.loc[line, column] = value
    utterances.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"Emotion": "glee"}, "line 4: Emotion: expected one of neutral, .*, found 'glee'"),
        ({"Dialogue_ID": "x1"}, "line 4: Dialogue_ID: expected a whole number below 100000, found 'x1'"),
        ({"Utterance_ID": "-1"}, "line 4: Utterance_ID: expected a whole number below 1000, found '-1'"),
        ({"Utterance_ID": "99999999999999999999"}, "line 4: Utterance_ID: expected a whole number below 1000"),
        ({"Season": "four"}, "line 4: Season: expected a whole number"),
        (
            {"Utterance_ID": "1"},
            "expected every utterance once, found Dialogue_ID 0 with Utterance_ID 1 in lines 3 and 4; remove one",
        ),
    ],
)
def test_a_wrong_cell_is_one_line_that_names_table_and_line(broken, cells, expected):
    changed(broken / "test_sent_emo.csv", 2, **cells)
    with pytest.raises(DataError, match=rf"test_sent_emo.csv: {expected}"):
        read_raw(broken)


def test_missing_columns_are_named_with_those_found(broken):
    path = broken / "dev_sent_emo.csv"
    pd.read_csv(path).drop(columns=["Speaker", "Season"]).to_csv(path, index=False)
    with pytest.raises(
        DataError, match=r"dev_sent_emo.csv: expected a column Speaker, Season, found the columns Sr No"
    ):
        read_raw(broken)


def test_a_line_with_a_cell_too_few_and_a_line_that_is_no_csv_are_named(broken):
    path = broken / "dev_sent_emo.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:5], "6,only this", *lines[6:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"dev_sent_emo.csv: line 6: expected 11 cells"):
        read_raw(broken)
    path.write_text("\n".join([*lines[:5], "7," + "x" * 200_000, *lines[6:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"dev_sent_emo.csv: line 6: expected a line of a CSV file"):
        read_raw(broken)


@pytest.mark.parametrize(("rate", "expected"), [(44100, "expected a wav of 16000 Hz, found 44100"), (None, "wav file")])
def test_a_wav_of_another_rate_and_a_wav_that_is_none_are_named(broken, tmp_path, rate, expected):
    path = broken / "train/dia2_utt1.wav"
    path.write_bytes(b"RIFF no") if rate is None else raw_meld.write_wav(path, 0.5, 5, rate)
    with pytest.raises(DataError, match=expected) as caught:
        raw_meld.prepared(broken, tmp_path / "out", tmp_path / "cache")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("classes", [("joy",), ("joy", "joy"), ("joy", "glee")])
def test_classes_are_several_different_emotions(classes):
    with toy_features(), pytest.raises(ValidationError):
        Meld.Raw(audio="toy_audio", text="toy_text", classes=classes)


def test_a_feature_of_another_medium_is_refused(raw):
    with pytest.raises(ConfigError, match="audio: expected a feature of audio, found 'toy_text', which is one of text"):
        read_raw(raw, audio="toy_text")


# --- the configs, and the official files ----------------------------------------------------------------------------


def test_the_config_of_the_benchmark_states_its_numbers():
    config = load_config(CONFIGS / "fedmultimodal/meld.yaml", [])
    task = config.local.task
    assert (config.rounds, config.sites.count, int(config.sites.fraction * config.sites.count)) == (200, 86, 8)
    assert (task.lr, task.batch, task.optimizer, task.momentum, task.weight_decay, task.clip) == (
        0.01,
        16,
        "sgd",
        0.9,
        1e-5,
        10,
    )
    keys: Any = config.data
    strategy: Any = config.strategy
    assert (keys.protocol, config.data.partition.name, strategy.weighting) == ("fedmultimodal", "natural", "samples")
    assert (config.evaluate.select, config.recovery.name, config.missing.empty) == ("uar", "zero", "skip")


def test_the_config_of_the_paper_misses_alike_in_training_and_test():
    config = load_config(CONFIGS / "fedrecon/meld.yaml", [])
    keys: Any = config.data
    assert config.missing.train.rate == config.missing.test.rate == 0.5
    assert (keys.protocol, keys.min_utterances, config.sites.count) == ("default", 11, 86)
    benchmark = load_config(CONFIGS / "fedmultimodal/meld.yaml", [])
    assert (config.modalities, config.task) == (benchmark.modalities, benchmark.task)
    assert (config.recovery.name, config.strategy.name, config.evaluate.select) == ("fedrecon", "fedavg", "uar")


def test_official_files_give_the_published_counts():
    """86 sites, 7,318 + 628 + 1,774 utterances. Without wav files beside the tables, the two official clips that are
    missing or broken count as unheard."""
    place = os.environ.get("FEDRECON_MELD")
    if not place:
        pytest.skip("FEDRECON_MELD does not name a folder with train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv")
    found = read_raw(Path(place))
    samples = found.samples
    heard = samples.present[:, 0]
    if not heard.any():
        heard = np.array([name not in ("train dia125_utt3", "dev dia110_utt7") for name in found.names])
    columns = {name: getattr(samples, name) for name in ("labels", "ids", "split", "cluster_ids", "natural_ids")}
    dataset = Dataset(found.spec, arrays={}, rows={"audio": np.where(heard, 0, -1)}, **columns)
    kept = benchmark_samples(dataset)
    assert [int((kept & (dataset.split == split)).sum()) for split in range(3)] == [7318, 628, 1774]
    assert len(np.unique(dataset.natural_ids[kept & (dataset.split == 0)])) == 86


@pytest.mark.parametrize(
    ("settings", "name", "longest", "longer"),
    [
        ([], "log_mel", 1000, "cut"),
        (["audio.longest=500"], "log_mel", 500, "cut"),
        (["audio=mfcc"], "mfcc", 1000, "cut"),
        (["audio.name=mfcc", "audio.longest=9"], "mfcc", 9, "cut"),
        (["audio.longer=refuse"], "log_mel", 1000, "refuse"),
    ],
)
def test_long_sounds_are_cut_as_in_the_benchmark_unless_the_keys_say_otherwise(settings, name, longest, longer):
    discover(DATA_PACKAGES)
    audio = keys_of(Meld, settings).audio
    assert (audio.name, audio.longest, audio.longer) == (name, longest, longer)

"""Data set ``meld``: audio and text of the utterances in dialogues of a television series, with the speaker's emotion
(Poria et al. 2019).

The official clips are videos; their audio must be converted to WAV files next to the official tables
(``expected_files`` says how). A sample is an utterance, a cluster is a dialogue, and a natural id is a speaker within a
season, as in the FedMultimodal benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from fedrecon_core import config
from fedrecon_core.config import DataParams
from fedrecon_core.config.base import require_defaults
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray, LazyArray, StoredArray
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import (
    file_item,
    file_states,
    make_feature,
    rows_through,
    rows_version,
    text_item,
)
from fedrecon_core.preparation.features.spectral import SoundParams
from fedrecon_core.preparation.raw_dataset import RawDataset, column
from fedrecon_core.preparation.raw_readers.meld_files import (
    PARTS,
    Emotion,
    expected_files,
    read_table,
    refuse_missing_audio,
    table_file,
    wav_files,
)
from fedrecon_core.registry import DATASETS, FEATURES
from fedrecon_core.types import DatasetSpec, StrictModel

RARE = 10
"""The benchmark uses speakers with more utterances in a split than this."""
FLAT = 1e-5
"""Added by the benchmark to a standard deviation before dividing by it."""
FAULTS = (
    "protocol fedmultimodal: audio is z-normalized per speaker in training and per utterance in validation and test, "
    "as in the benchmark, so the model is evaluated on inputs that are scaled differently.",
    "protocol fedmultimodal: validation and test contain only speakers with more than 10 utterances there, as in the "
    "benchmark, so the scores do not cover rare speakers.",
)


class MeldRaw(StrictModel):
    """``classes``: emotions to use; utterances with others are left out. ``missing_audio: allow``: an utterance without
    a WAV file is a sample without ``audio`` instead of an error. ``encoding`` of the tables. ``audio`` and ``text``:
    the features of the modalities; sounds that are too long for ``audio`` are cut, as in the benchmark, unless
    ``audio.longer`` says otherwise."""

    classes: tuple[Emotion, ...] = Field(default=("neutral", "sadness", "joy", "anger"), min_length=2)
    missing_audio: Literal["refuse", "allow"] = "refuse"
    encoding: str = "utf-8"
    audio: config.Feature = Field(default="log_mel", validate_default=True)
    text: config.Feature = Field(default="mobilebert", validate_default=True)

    @field_validator("audio", mode="before")
    @classmethod
    def _cut_by_default(cls, given: Any) -> Any:
        keys = {"name": given} if isinstance(given, str) else given
        if not isinstance(keys, dict) or keys.get("name") not in FEATURES.names():
            return given
        cls_of: Any = FEATURES.get(keys["name"])
        return {"longer": "cut", **keys} if issubclass(cls_of.Params, SoundParams) else given

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise InvalidValueError("classes", f"expected each emotion once, found {', '.join(self.classes)}")
        return self


class MeldParams(DataParams):
    """``min_utterances``: minimum number of training utterances of a speaker (in a season); 11 gives the 86 speakers of
    the benchmark. ``protocol: fedmultimodal`` uses only utterances with audio, in every split of speakers with more
    than 10 there, and z-normalizes as described in ``FAULTS`` instead of federation-wide. Modalities missing in
    training must then be missing for whole speakers (``normalised_by_natural_id``).

    The benchmark's code normalizes held-out utterances with identical words together; here each one is separate.
    """

    protocol: Literal["default", "fedmultimodal"] = "default"
    min_utterances: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.protocol == "fedmultimodal":
            require_defaults(
                self, ("min_utterances",), "with protocol fedmultimodal (it uses speakers with more than 10)"
            )
        return self


@DATASETS.register("meld")
class Meld(PreparedLoader):
    """The official splits. Audio is standardized federation-wide."""

    Params = MeldParams
    Raw = MeldRaw
    name = "meld"
    modalities = ("audio", "text")

    @classmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        """The three tables, and a folder of WAV files for each."""
        return expected_files(raw)

    @classmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """Read the utterances of the classes; ``DataError`` naming an invalid file."""
        checked = cast(MeldRaw, keys)
        audio, text = make_feature("audio", checked.audio), make_feature("text", checked.text)
        tables = [read_table(raw / table_file(part), number, checked.encoding) for number, part in enumerate(PARTS)]
        utterances = [utterance for table in tables for utterance in table if utterance.emotion in checked.classes]
        files = wav_files(raw, utterances)
        heard = np.array([file.is_file() for file in files], dtype=np.bool_)
        if checked.missing_audio == "refuse":
            refuse_missing_audio(utterances, files, heard)
        speakers = {pair: number for number, pair in enumerate(sorted({(u.season, u.speaker) for u in utterances}))}
        return RawDataset(
            spec=DatasetSpec(
                name=cls.name,
                modalities=(audio.modality("audio").model_copy(update={"scale": "standard"}), text.modality("text")),
                classes=tuple(checked.classes),
            ),
            samples=Samples(
                ids=column([u.group * 1000 + u.number for u in utterances]),
                labels=column([checked.classes.index(cast(Emotion, u.emotion)) for u in utterances]),
                split=column([u.part for u in utterances]),
                cluster_ids=column([u.group for u in utterances]),
                present=np.stack([heard, np.ones_like(heard)], axis=1),
                natural_ids=column([speakers[u.season, u.speaker] for u in utterances]),
            ),
            rows={
                "audio": rows_through(audio, cache, lambda sample: file_item(files[sample])),
                "text": rows_through(
                    text, cache, lambda sample: text_item(utterances[sample].text, utterances[sample].place)
                ),
            },
            ragged=frozenset(name for name, feature in (("audio", audio), ("text", text)) if feature.ragged),
            names=[f"{PARTS[utterance.part]} {utterance.name}" for utterance in utterances],
            version=rows_version((audio, text), (*(u.text for u in utterances), *file_states(raw, files))),
        )

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Open the prepared folder with the speakers that ``params`` selects."""
        keys = cast(MeldParams, params)
        dataset = self.open(root)
        if keys.protocol == "fedmultimodal":
            return _apply_benchmark_protocol(dataset)
        training, least = dataset.split == 0, keys.min_utterances
        spoken = _utterances_of_speaker(dataset, training)
        if training.any() and spoken[training].max() < least:
            found = f"at most {spoken[training].max()}"
            raise DataError(f"data.min_utterances: expected a speaker with {least} training utterances, found {found}")
        return _select(dataset, np.asarray(~training | (spoken >= least)))


def _select(dataset: Dataset, kept: BoolArray) -> Dataset:
    """Keep the samples ``kept`` (bool [N]); arrays and offsets are unchanged."""
    if kept.all():
        return dataset
    columns = ("labels", "ids", "split", "cluster_ids", "natural_ids")
    rows = {name: rows[kept] for name, rows in dataset.rows.items()}
    return replace(dataset, rows=rows, **{name: getattr(dataset, name)[kept] for name in columns})


def _utterances_of_speaker(dataset: Dataset, counted: BoolArray) -> IntArray:
    """Count, for each sample, the samples among ``counted`` (bool [N]) of its speaker in its split. int64 [N]."""
    unit = dataset.natural_ids * len(PARTS) + dataset.split
    units, index = np.unique(unit, return_inverse=True)
    return np.bincount(index[counted], minlength=len(units))[index].astype(np.int64)


def benchmark_samples(dataset: Dataset) -> BoolArray:
    """Return which samples (bool [N]) the FedMultimodal benchmark uses: utterances with audio of speakers (within a
    season) who have more than 10 of them in the split. On the official files with four classes these are 86 speakers
    with 7,318 utterances in training, 628 in validation and 1,774 in test."""
    heard = dataset.rows["audio"] >= 0
    return np.asarray(heard & (_utterances_of_speaker(dataset, heard) > RARE))


class NormedFrames(LazyArray):
    """Frames [F, D] of sequences, z-normalized within the unit of each sequence. The statistics of a unit are computed
    when one of its frames is first read."""

    def __init__(self, frames: StoredArray, borders: IntArray, unit: IntArray) -> None:
        """``unit``: int64 [number of sequences]; frames of sequences in unit -1 are not changed."""
        super().__init__(frames.shape)
        self._frames, self._borders, self._unit = frames, borders, unit
        self._computed: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def _take(self, rows: IntArray) -> NDArray[np.float32]:
        unit = self._unit[np.searchsorted(self._borders, rows, side="right") - 1]
        taken = np.array(self._frames[rows], dtype=np.float32)
        for number in np.unique(unit[unit >= 0]).tolist():
            if number not in self._computed:
                sequences = np.flatnonzero(self._unit == number).tolist()
                parts = [slice(*self._borders[row : row + 2]) for row in sequences]
                frames = np.concatenate([np.asarray(self._frames[part], dtype=np.float64) for part in parts])
                self._computed[number] = frames.mean(axis=0), frames.std(axis=0) + FLAT
            mean, deviation = self._computed[number]  # [D] each
            taken[unit == number] = (taken[unit == number] - mean) / deviation
        return taken


def _apply_benchmark_protocol(dataset: Dataset) -> Dataset:
    if "audio" not in dataset.offsets:
        found = f"one of shape {list(dataset.spec['audio'].shape)}"
        raise DataError(f"data.protocol: fedmultimodal expects an audio feature with lengths (log_mel), found {found}")
    taken = _select(dataset, benchmark_samples(dataset))
    for split, part in enumerate(PARTS):
        if not len(taken.members(split)):
            expected = f"expects speakers with more than {RARE} utterances in every split"
            raise DataError(f"data.protocol: fedmultimodal {expected}, found none in {part}; use protocol: default")
    rows, speakers = taken.rows["audio"], taken.natural_ids
    own = speakers.max() + 1 + np.arange(len(rows))
    unit = np.full(len(taken.offsets["audio"]) - 1, -1, dtype=np.int64)
    unit[rows] = np.unique(np.where(taken.split == 0, speakers, own), return_inverse=True)[1]
    audio = NormedFrames(taken.arrays["audio"], taken.offsets["audio"], unit)
    plain = [m.model_copy(update={"scale": "none"}) if m.name == "audio" else m for m in taken.spec.modalities]
    return replace(
        taken,
        spec=taken.spec.model_copy(update={"modalities": tuple(plain)}),
        arrays={**taken.arrays, "audio": audio},
        faults=(*taken.faults, *FAULTS),
        normalised_by_natural_id=("audio",),
    )

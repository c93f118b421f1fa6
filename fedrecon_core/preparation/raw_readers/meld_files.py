"""Reader of the official files of MELD: tables of utterances, and WAV files of their clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fedrecon_core.data.dataset import BoolArray
from fedrecon_core.errors import DataError
from fedrecon_core.files import read_text
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import first_few

Emotion = Literal["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
EMOTIONS: tuple[str, ...] = get_args(Emotion)
PARTS = ("train", "dev", "test")
CLIPS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
"""The official folders of video clips. WAV files may be there or in their subfolder ``waves``, too."""
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "Season")
BROKEN = {"train": "; the official clip dia125_utt3 is broken", "dev": "; the official archive lacks dia110_utt7"}
LEFTOVERS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
"""C1 control characters -> the meaning of their bytes in windows-1252. The official tables are UTF-8 with a few
apostrophes and dots that were copied byte by byte from that encoding."""


@dataclass(frozen=True)
class Utterance:
    """A line of a table. ``part``: position in ``PARTS``; ``line``: line number in the file, from 1."""

    part: int
    line: int
    dialogue: int
    number: int
    season: int
    speaker: str
    emotion: str
    text: str

    @property
    def name(self) -> str:
        """The official name of its clip, without a suffix."""
        return f"dia{self.dialogue}_utt{self.number}"

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{table_file(PARTS[self.part])}: line {self.line}"

    @property
    def group(self) -> int:
        """Its dialogue; numbering starts again in every split."""
        return self.part * 100_000 + self.dialogue


def table_file(part: str) -> str:
    """Return the file name of the official table of a part."""
    return f"{part}_sent_emo.csv"


def expected_files(raw: Path) -> list[ExpectedFile]:
    """Return the three tables and a folder of WAV files for each."""
    tables = [
        ExpectedFile(table_file(part), f"the official table of the {part} utterances ({', '.join(COLUMNS)}, ...)")
        for part in PARTS
    ]
    sounds = [
        ExpectedFile(
            f"{_wav_folder(raw, part)}/*.wav",
            f"the audio of the {part} clips as dia0_utt0.wav and so on, 16 kHz mono (also accepted in {CLIPS[part]}), "
            f"made in the raw folder with: {_wav_command(part)}",
        )
        for part in PARTS
    ]
    return [*tables, *sounds]


def read_table(path: Path, part: int, encoding: str) -> list[Utterance]:
    """Read all utterances of an official table; ``DataError`` naming the first invalid line."""
    text = read_text(path, encoding).removeprefix("\ufeff").translate(LEFTOVERS)
    utterances: dict[tuple[int, int], Utterance] = {}
    for line, cells in _lines(path, text):
        if cells["Emotion"] not in EMOTIONS:
            expected = f"Emotion: expected one of {', '.join(EMOTIONS)}"
            raise DataError(f"{path}: line {line}: {expected}, found '{cells['Emotion']}'")
        numbers = []
        for column, limit in (("Dialogue_ID", 100_000), ("Utterance_ID", 1000), ("Season", 1000)):
            cell = cells[column].strip()
            if not (cell.isascii() and cell.isdigit() and len(cell) < 9 and int(cell) < limit):
                expected = f"{column}: expected a whole number below {limit}"
                raise DataError(f"{path}: line {line}: {expected}, found '{cells[column][:40]}'")
            numbers.append(int(cell))
        dialogue, number, season = numbers
        if (dialogue, number) in utterances:
            first = utterances[dialogue, number].line
            found = f"Dialogue_ID {dialogue} with Utterance_ID {number} in lines {first} and {line}"
            raise DataError(f"{path}: expected every utterance once, found {found}; remove one")
        utterances[dialogue, number] = Utterance(
            part, line, dialogue, number, season, cells["Speaker"], cells["Emotion"], cells["Utterance"]
        )
    return list(utterances.values())


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each line and its cells by column."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if lacking:
            found = ", ".join(reader.fieldnames or ()) or "none"
            raise DataError(
                f"{path}: expected a column {', '.join(lacking)}, found the columns {found}; fetch it again"
            )
        for cells in reader:
            if None in cells or None in cells.values():
                count = len(reader.fieldnames or ())
                raise DataError(f"{path}: line {reader.line_num}: expected {count} cells, found another number")
            yield reader.line_num, cells
    except csv.Error as error:
        line = reader.reader.line_num  # DictReader counts only lines that it could read
        raise DataError(f"{path}: line {line}: expected a line of a CSV file, found: {error}") from None


def _wav_folder(raw: Path, part: str) -> str:
    """Return the folder of a part's WAV files: the first known place that has one."""
    places = (part, CLIPS[part], f"{CLIPS[part]}/waves", f"{part}/waves")
    return next((place for place in places if next((raw / place).glob("*.wav"), None) is not None), part)


def _wav_command(part: str) -> str:
    """Return the shell command that makes the WAV files of a part from its official clips."""
    convert = f'ffmpeg -i "$f" -vn -ac 1 -ar 16000 "{part}/$(basename "$f" .mp4).wav"'
    return f"mkdir -p {part}; for f in {CLIPS[part]}/*.mp4; do {convert}; done"


def wav_files(raw: Path, utterances: Sequence[Utterance]) -> list[Path]:
    """Return the path of each utterance's WAV file, whether it exists or not."""
    folders = [raw / _wav_folder(raw, part) for part in PARTS]
    return [folders[utterance.part] / f"{utterance.name}.wav" for utterance in utterances]


def refuse_missing_audio(utterances: Sequence[Utterance], files: Sequence[Path], heard: BoolArray) -> None:
    """Raise ``DataError`` naming the first of ``files`` that does not exist (``heard``, bool [N])."""
    for part, name in enumerate(PARTS):
        of_part = [index for index, utterance in enumerate(utterances) if utterance.part == part]
        lacking = [files[index] for index in of_part if not heard[index]]
        if lacking:
            found = f"no {first_few([file.name for file in lacking])}"
            raise DataError(
                f"{lacking[0].parent}: expected a WAV file for each of the {len(of_part)} {name} utterances of the "
                f"classes, found {found}{BROKEN.get(name, '')}; make them in the raw folder with: "
                f"{_wav_command(name)}; or set missing_audio: allow to keep them as samples without audio"
            )

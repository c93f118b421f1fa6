"""A small MELD in the official layout: three tables, and the sound of their utterances as wav files."""

from __future__ import annotations

import csv
import wave
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon_core.datasets.meld import Meld
from fedrecon_core.preparation.writer import write_site_folder
from tests.helpers.features import toy_features

EMOTIONS = ("neutral", "joy", "sadness", "anger", "neutral", "surprise")
SPEAKERS = ("Ross", "Monica", "Ross", "Joey", "Ross")
WORDS = {"neutral": "Okay, so", "joy": "Oh “great”", "sadness": "I’m sorry", "anger": "Get out!", "surprise": "What?!"}
PARTS = ("train", "dev", "test")
UTTERANCES = 6
SILENT = "dia1_utt4"
"""A dev utterance without a wav file; its speaker has many utterances."""


def rows(part: str, dialogues: int) -> list[dict[str, Any]]:
    """The lines of a table, ``UTTERANCES`` for each dialogue; ids of dialogues begin at 0 in every part."""
    lines = []
    for number in range(dialogues * UTTERANCES):
        dialogue, utterance = divmod(number, UTTERANCES)
        emotion = EMOTIONS[number % len(EMOTIONS)]
        cells = {
            "Sr No.": number + 1,
            "Utterance": f"{WORDS[emotion]}, {part} {dialogue}",
            "Speaker": SPEAKERS[number % len(SPEAKERS)],
            "Emotion": emotion,
            "Sentiment": "neutral",
            "Dialogue_ID": dialogue,
            "Utterance_ID": utterance,
            "Season": 1 + dialogue % 2,
            "Episode": 3,
            "StartTime": "00:00:01,000",
            "EndTime": "00:00:02,000",
        }
        lines.append(cells)
    return lines


def write_table(path: Path, lines: list[dict[str, Any]], encoding: str = "utf-8") -> None:
    """A table as the official ones are: commas, quotation marks where they are needed."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def write_wav(path: Path, level: float, frames: int, rate: int = 16000) -> None:
    """A tone of 16 bits, mono; ``frames`` are of 80 values."""
    values = level * np.sin(np.arange(80 * frames) * (0.1 + level))
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((values * 32000).astype("<i2").tobytes())


def write(raw: Path, dialogues: tuple[int, int, int] = (5, 3, 3)) -> Path:
    """The raw folder with so many dialogues in train, dev and test; ``SILENT`` has no wav file in dev."""
    for part, count in zip(PARTS, dialogues, strict=True):
        (raw / part).mkdir(parents=True)
        lines = rows(part, count)
        write_table(raw / f"{part}_sent_emo.csv", lines)
        for line in lines:
            name = f"dia{line['Dialogue_ID']}_utt{line['Utterance_ID']}"
            if (part, name) != ("dev", SILENT):
                level = 0.1 + 0.2 * EMOTIONS.index(line["Emotion"]) + 0.01 * (line["Dialogue_ID"] % 5)
                write_wav(raw / part / f"{name}.wav", min(level, 0.9), 3 + line["Sr No."] % 5)
    return raw


def prepared(raw: Path, out: Path, cache: Path, **keys: Any) -> Path:
    """``out``, prepared from the raw folder with toy features."""
    with toy_features():
        checked = Meld.Raw(**{"missing_audio": "allow", "audio": "toy_audio", "text": "toy_text", **keys})
        write_site_folder(Meld.read_raw(checked, raw, cache), out, lambda *_: None)
    return out


def root(base: Path) -> Path:
    """The prepared folder of the toy, with speakers who say enough for the benchmark's protocol in every split."""
    return prepared(write(base / "raw", (20, 14, 12)), base / "prepared", base / "cache")

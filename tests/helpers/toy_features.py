"""Small features without weights or libraries of their own, for data sets that are made of files.

They are registered only inside ``toy_features()``, so that no test that goes over all features meets them.
"""

from __future__ import annotations

import hashlib
import io
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

FRAME = 80
FRAMES, WORDS = 8, 6


class ToyAudioParams(Params):
    """``rate``: the only sampling rate that is read."""

    name: str = "toy_audio"
    rate: int = 16000


class ToyAudio(Feature):
    """Mean magnitude, deviation and changes of sign of up to 8 frames of 80 values."""

    Params = ToyAudioParams
    medium = "audio"
    ragged = True

    def modality(self, name: str) -> ModalitySpec:
        return ModalitySpec(name=name, kind="sequence", shape=(FRAMES, 3))

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        return [self._frames(content) for content in contents]

    def _frames(self, content: RawItem) -> FloatArray:
        try:
            with wave.open(io.BytesIO(content.data)) as sound:
                rate, values = sound.getframerate(), sound.readframes(sound.getnframes())
        except (wave.Error, EOFError):
            raise DataError(f"{content.origin}: expected a wav file, found something else") from None
        if rate != self.params.rate:
            raise DataError(f"{content.origin}: expected a wav of {self.params.rate} Hz, found {rate} Hz")
        samples = np.frombuffer(values, dtype="<i2")[: FRAME * FRAMES] / 32768
        frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
        signs = (np.diff(np.sign(frames), axis=1) != 0).mean(1)
        return np.stack([np.abs(frames).mean(1), frames.std(1), signs], axis=1).astype(np.float32)


class ToyTextParams(Params):
    """No keys of its own."""

    name: str = "toy_text"


class ToyText(Feature):
    """A vector of four numbers in [0, 1] for each of up to six words, from the word's hash; of no word at all zeros."""

    Params = ToyTextParams
    medium = "text"
    ragged = True

    def modality(self, name: str) -> ModalitySpec:
        return ModalitySpec(name=name, kind="sequence", shape=(WORDS, 4))

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        return [text_row(content.data.decode("utf-8")) for content in contents]


def text_row(text: str) -> FloatArray:
    """What ``toy_text`` makes of a text."""
    words = [list(hashlib.sha256(word.encode()).digest()[:4]) for word in text.split()[:WORDS]]
    return np.array(words or [[0] * 4], dtype=np.float32) / 255


class ToyImageParams(Params):
    """No keys of its own."""

    name: str = "toy_image"


class ToyImage(Feature):
    """Mean and deviation of each colour, in [0, 1]."""

    Params = ToyImageParams
    medium = "image"
    ragged = False

    def modality(self, name: str) -> ModalitySpec:
        return ModalitySpec(name=name, kind="vector", shape=(6,))

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        return [self._colours(content) for content in contents]

    def _colours(self, content: RawItem) -> FloatArray:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(content.data)) as picture:
                pixels = np.asarray(picture.convert("RGB"), dtype=np.float32).reshape(-1, 3) / 255
        except (UnidentifiedImageError, OSError):
            raise DataError(f"{content.origin}: expected an image, found something else") from None
        return np.concatenate([pixels.mean(0), pixels.std(0)]).astype(np.float32)


TOYS: dict[str, Any] = {"toy_audio": ToyAudio, "toy_text": ToyText, "toy_image": ToyImage}


@contextmanager
def toy_features() -> Iterator[None]:
    """Inside, the features ``toy_audio``, ``toy_text`` and ``toy_image`` are registered."""
    for name, toy in TOYS.items():
        FEATURES.register(name)(toy)
    try:
        yield
    finally:
        for name in TOYS:
            FEATURES.forget(name)

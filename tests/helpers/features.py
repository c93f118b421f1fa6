"""Contents of every medium that a feature reads, small features without weights, and an import of torchvision."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import re
import struct
import sys
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

RATE = 16_000


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> FloatArray:
    """float32 [N]: a sine of half the full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav_bytes(samples: FloatArray, rate: int = RATE, width: int = 2) -> bytes:
    """[N] or [N, channels] within -1 and 1 as PCM of ``width`` bytes."""
    values = np.round(samples.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype("<i4")
    values = values + 128 if width == 1 else values
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(values.reshape(-1, 1).view(np.uint8)[:, :width].tobytes())
    return file.getvalue()


def float_wav_bytes(samples: FloatArray, rate: int = RATE) -> bytes:
    """[N] as floating point of 32 bits."""
    body = samples.astype("<f4").tobytes()
    described = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    chunks = b"fmt " + struct.pack("<I", 16) + described + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """RGB: smooth colours with some noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    colours = np.stack([255 * rows / height, 255 * columns / width, 127 + 0 * rows], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 12, colours.shape)
    return Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8))


def image_bytes(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _audio() -> list[bytes]:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5000).astype(np.float32)
    return [wav_bytes(tone(0.3)), wav_bytes(noise), float_wav_bytes(tone(0.01, 1000)), wav_bytes(tone(0.3, 880))]


def _images() -> list[bytes]:
    sizes = ((30, 20), (64, 64), (300, 260))
    return [image_bytes(picture(*size, seed=seed)) for seed, size in enumerate(sizes)]


def _texts() -> list[bytes]:
    return [text.encode() for text in ("how are you doing", "fine", "", "how is your day doing", "Größe 🙂 fine")]


def _series() -> list[bytes]:
    values = np.random.default_rng(1).normal(size=(5, 3))
    table = "x,y,z\n" + "\n".join(",".join(str(number) for number in row) for row in values[:2])
    return [npy_bytes(values), table.encode(), npy_bytes(values[:1].astype(np.float32))]


BY_MEDIUM: dict[str, Callable[[], list[bytes]]] = {
    "audio": _audio,
    "image": _images,
    "text": _texts,
    "series": _series,
}


def contents_of(medium: str) -> list[RawItem]:
    """Contents of different lengths or sizes; those of a series have three columns."""
    return [RawItem(data, f"{medium} {place}") for place, data in enumerate(BY_MEDIUM[medium]())]


# --- small features, registered only inside ``toy_features()`` --------------------------------------------------------

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
    """A vector of four numbers in [0, 1] for each of up to six words, from the word's hash; zeros for an empty text."""

    Params = ToyTextParams
    medium = "text"
    ragged = True

    def modality(self, name: str) -> ModalitySpec:
        return ModalitySpec(name=name, kind="sequence", shape=(WORDS, 4))

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        return [text_row(content.data.decode("utf-8")) for content in contents]


def text_row(text: str) -> FloatArray:
    """The row of ``toy_text`` for a text."""
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
    """Register the features ``toy_audio``, ``toy_text`` and ``toy_image`` inside the block."""
    for name, toy in TOYS.items():
        FEATURES.register(name)(toy)
    try:
        yield
    finally:
        for name in TOYS:
            FEATURES.forget(name)


# --- torchvision ------------------------------------------------------------------------------------------------------

DESCRIPTIONS = "_meta_registrations.py"
DESCRIBED = re.compile(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"\)')
_declared: list[torch.library.Library] = []
"""Libraries of the declared operators, kept alive because a declaration ends with its library."""


def use_torchvision() -> None:
    """Make torchvision importable even if it was built for another torch (CUDA); skip the test if that is impossible.

    The compiled operators of such a build do not load, and its import fails where it describes them. The networks in
    the tests need no operator, so the operators are declared here without code.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare()
        try:
            importlib.import_module("torchvision")
        except Exception as still:
            pytest.skip(f"torchvision was built for another torch, and cannot be imported without operators: {still}")


def _declare() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], DESCRIPTIONS).read_text(encoding="utf-8")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in DESCRIBED.findall(source):
        library.define(f"{operator}(Tensor values) -> Tensor")
    _declared.append(library)

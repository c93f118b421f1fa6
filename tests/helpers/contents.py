"""A few contents of every medium that a feature reads, and the bytes of WAV and image files."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable

import numpy as np
from PIL import Image

from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.cache import FloatArray

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

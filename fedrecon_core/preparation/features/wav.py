"""Reader of WAV files: PCM with 8, 16, 24 or 32 bits, and floating point with 32 or 64 bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import FloatArray, RawItem

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
UNKNOWN_SIZE = 0xFFFFFFFF
"""The size that programs write to a pipe: the sound extends to the end of the file."""
CODES = {(PCM, 8): "u1", (PCM, 16): "<i2", (PCM, 32): "<i4", (FLOAT, 32): "<f4", (FLOAT, 64): "<f8"}

Stereo = Literal["refuse", "mean"]


@dataclass(frozen=True)
class _Format:
    code: int
    channels: int
    rate: int
    bits: int

    @property
    def frame(self) -> int:
        """Bytes per sample in all channels."""
        return self.channels * self.bits // 8


def read_mono(content: RawItem, rate: int, stereo: Stereo) -> FloatArray:
    """Read a sound as float32 [N] in [-1, 1]. Several channels are refused or averaged (``stereo``).

    Raises ``DataError`` naming the origin if it is not a WAV file, is truncated, empty or not finite, or has another
    ``rate`` (Hz).
    """
    advice = f"convert it: ffmpeg -i IN -ac 1 -ar {rate} -c:a pcm_s16le OUT.wav"
    try:
        form, sound = _read(content.data)
        if form.rate != rate:
            raise _misfit(f"{rate} Hz", f"{form.rate} Hz")
        if form.channels > 1 and stereo == "refuse":
            raise _misfit("one channel (or stereo: mean)", f"{form.channels}")
        samples = _samples(form, sound)
        if not np.isfinite(samples).all():
            raise _misfit("finite samples", "NaN or infinity")
    except ValueError as fault:
        raise DataError(f"{content.origin}: {fault}; {advice}") from None
    mono: FloatArray = samples.reshape(-1, form.channels).mean(axis=1).astype(np.float32)
    return mono


def _misfit(expected: str, found: str) -> ValueError:
    return ValueError(f"expected {expected}, found {found}")


def _read(data: bytes) -> tuple[_Format, bytes]:
    """Return the format and the sound of a file; ``ValueError`` if it lacks them or is truncated."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise _misfit("a WAV file", "other bytes" if data else "no bytes")
    form: _Format | None = None
    start = 12
    while start + 8 <= len(data):  # chunks of name, size and bytes; the last one of a truncated file is too short
        name, size = struct.unpack_from("<4sI", data, start)
        body = data[start + 8 : start + 8 + size]
        if name == b"fmt ":
            form = _format(body)
        elif name == b"data" and form is not None:
            if size == UNKNOWN_SIZE:
                body = body[: len(body) // form.frame * form.frame]
            elif len(body) < size:
                raise _misfit(f"{size} bytes of sound", f"{len(body)} (the file is truncated)")
            if not body or len(body) % form.frame:
                raise _misfit(f"sound in frames of {form.frame} bytes", f"{len(body)} bytes")
            return form, body
        start += 8 + size + size % 2
    raise _misfit("a WAV file with a format and a sound", "one without")


def _format(body: bytes) -> _Format:
    if len(body) < 16:
        raise _misfit("16 bytes of format description", f"{len(body)}")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if code == EXTENSIBLE and len(body) >= 26:
        (code,) = struct.unpack_from("<H", body, 24)
    if (code, bits) not in (*CODES, (PCM, 24)) or not channels:
        raise _misfit("PCM or floating point, not compressed", f"code {code} of {bits} bits in {channels} channels")
    return _Format(code, channels, rate, bits)


def _samples(form: _Format, sound: bytes) -> NDArray[np.float64]:
    if (form.code, form.bits) == (PCM, 24):
        wide = np.zeros((len(sound) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(sound, np.uint8).reshape(-1, 3)
        sound, form = wide.tobytes(), replace(form, bits=32)
    values: NDArray[np.float64] = np.frombuffer(sound, CODES[form.code, form.bits]).astype(np.float64)
    if form.code == FLOAT:
        return values
    full = 2.0 ** (form.bits - 1)
    return values / full - 1 if form.bits == 8 else values / full  # 8-bit samples are unsigned

"""What the features of sound share: from a WAV file to frames in mel bands."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from fedrecon_core.config import Params
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.preparation.features.extra import require_library
from fedrecon_core.preparation.features.wav import Stereo, read_mono
from fedrecon_core.types import ModalitySpec

LOWEST = 20.0
"""Hz where the lowest band begins; the highest ends at half the sampling rate."""
FLOOR = 1e-6
"""Added to a band's power before the logarithm; the full scale of a sample is 1."""


class SoundParams(Params):
    """``rate``: Hz that every file must have. Windows of ``window_ms`` begin every ``hop_ms``. ``longest``: the
    most windows of a sound; a longer one is refused, or ``cut`` (``longer``). ``bins``: mel bands. ``stereo``: several
    channels are refused, or averaged (``mean``)."""

    rate: int = Field(default=16_000, ge=1000, le=384_000)
    bins: int = Field(default=80, ge=1, le=1024)
    window_ms: float = Field(default=25.0, gt=0, le=1000)
    hop_ms: float = Field(default=10.0, gt=0, le=1000)
    longest: int = Field(default=1000, ge=1)
    longer: Literal["refuse", "cut"] = "refuse"
    stereo: Stereo = "refuse"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for key, samples, least in (("window_ms", self.window, 16), ("hop_ms", self.hop, 1)):
            if samples < least:
                raise InvalidValueError(key, f"expected at least {least} samples at {self.rate} Hz, found {samples}")
        return self

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from the beginning of a window to that of the next."""
        return round(self.rate * self.hop_ms / 1000)

    @property
    def samples(self) -> int:
        """Samples of ``longest`` windows."""
        return (self.longest - 1) * self.hop + self.window

    @property
    def fourier(self) -> int:
        """Points of the Fourier transform: the power of two that holds a window."""
        return 1 << (self.window - 1).bit_length()


class SpectralFeature(Feature):
    """Base: one row of numbers per window of sound."""

    medium: ClassVar[Literal["audio"]] = "audio"
    costly: ClassVar[bool] = True
    libraries: ClassVar[Mapping[str, str]] = {"librosa": "librosa"}
    params: SoundParams

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers per window."""

    @property
    def ragged(self) -> bool:
        """Sounds differ in length."""
        return True

    def modality(self, name: str) -> ModalitySpec:
        """A sequence of windows."""
        return ModalitySpec(name=name, kind="sequence", shape=(self.params.longest, self.width), scale="standard")

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """[windows, width] per WAV file."""
        return [self._row(content) for content in contents]

    def _row(self, content: RawItem) -> FloatArray:
        signal = read_mono(content, self.params.rate, self.params.stereo)
        if self.params.longer == "refuse" and len(signal) >= self.params.samples + self.params.hop:
            raise _too_long(content, len(signal), self.params)
        return np.ascontiguousarray(self.row(log_mel(signal, self.params)), dtype=np.float32)

    @abstractmethod
    def row(self, bands: FloatArray) -> FloatArray:
        """[windows, bins] of ``log_mel`` -> [windows, width]."""


def log_mel(signal: FloatArray, params: SoundParams) -> FloatArray:
    """float32 [N] -> [windows, bins]: ln(power in a mel band + FLOOR).

    Window i covers samples [i hop, i hop + window): only whole windows are taken, of a signal shorter than one the rest
    is zeros. Each is weighted by a periodic Hann window and transformed over ``fourier`` points; the squared magnitudes
    are summed with the triangles of ``_triangles``. Mean and emphasis of the signal stay as they are.
    """
    librosa = require_library(params.name, "librosa")
    signal = signal[: params.samples]
    margin = params.fourier - params.window  # librosa puts the window into the middle of the points
    lacking = max(params.window - len(signal), 0)
    signal = np.pad(signal, (margin // 2, margin - margin // 2 + lacking))
    keys = {"n_fft": params.fourier, "hop_length": params.hop, "win_length": params.window}
    spectrum = librosa.stft(signal, window="hann", center=False, **keys)
    bands = _triangles(params) @ np.square(np.abs(spectrum))
    logarithm: FloatArray = np.log(bands + np.float32(FLOOR)).T
    return logarithm


def _too_long(content: RawItem, samples: int, params: SoundParams) -> DataError:
    windows = 1 + (samples - params.window) // params.hop
    found = f"{windows} ({samples / params.rate:.2f} s)"
    expected = f"expected at most longest ({params.longest}) windows, which are {params.samples / params.rate:.2f} s"
    return DataError(f"{content.origin}: {expected}, found {found}; raise longest, or set longer: cut")


@cache
def _triangles(params: SoundParams) -> Any:
    """float32 [bins, fourier / 2 + 1]: triangles of height 1, at equal distances on the mel scale of HTK."""
    librosa = require_library(params.name, "librosa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below in our own words
        keys = {"sr": params.rate, "n_fft": params.fourier, "n_mels": params.bins, "fmin": LOWEST}
        triangles = librosa.filters.mel(**keys, htk=True, norm=None)
    if not triangles.any(axis=1).all():
        found = f"{params.bins}, of which some hold no frequency of a window of {params.window_ms} ms"
        raise DataError(f"{params.name}: bins: expected fewer, found {found}; lower bins or raise window_ms")
    return triangles

"""Shared code of sound features: from a WAV file to frames in mel bands."""

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
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem, require_library
from fedrecon_core.preparation.features.wav import Stereo, read_mono
from fedrecon_core.types import ModalitySpec

LOWEST = 20.0
"""Lower edge of the lowest band in Hz; the highest band ends at half the sampling rate."""
FLOOR = 1e-6
"""Added to a band's power before the logarithm; samples are in [-1, 1]."""


class SoundParams(Params):
    """``rate``: the sampling rate in Hz that every file must have. A window of ``window_ms`` starts every ``hop_ms``.
    ``longest``: maximum number of windows; ``longer``: longer sounds are refused, or ``cut``. ``bins``: number of mel
    bands. ``stereo``: several channels are refused, or averaged (``mean``)."""

    rate: int = Field(default=16_000, ge=1000, le=384_000)
    bins: int = Field(default=80, ge=1, le=1024)
    window_ms: float = Field(default=25.0, gt=0, le=1000)
    hop_ms: float = Field(default=10.0, gt=0, le=1000)
    longest: int = Field(default=1000, ge=1)
    longer: Literal["refuse", "cut"] = "refuse"
    stereo: Stereo = "refuse"

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        for key, samples, least in (("window_ms", self.window, 16), ("hop_ms", self.hop, 1)):
            if samples < least:
                raise InvalidValueError(key, f"expected at least {least} samples at {self.rate} Hz, found {samples}")
        return self

    @property
    def window(self) -> int:
        """Samples per window."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between the starts of two windows."""
        return round(self.rate * self.hop_ms / 1000)

    @property
    def samples(self) -> int:
        """Samples of ``longest`` windows."""
        return (self.longest - 1) * self.hop + self.window

    @property
    def fourier(self) -> int:
        """Points of the Fourier transform: the smallest power of two that is not below ``window``."""
        return 1 << (self.window - 1).bit_length()


class SpectralFeature(Feature):
    """Base class of features with one row of numbers per window of sound."""

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
        params, rows = self.params, []
        for content in contents:
            signal = read_mono(content, params.rate, params.stereo)
            if params.longer == "refuse" and len(signal) >= params.samples + params.hop:
                windows = 1 + (len(signal) - params.window) // params.hop
                raise DataError(
                    f"{content.origin}: expected at most longest ({params.longest}) windows, which are "
                    f"{params.samples / params.rate:.2f} s, found {windows} ({len(signal) / params.rate:.2f} s); "
                    "raise longest, or set longer: cut"
                )
            rows.append(np.ascontiguousarray(self.row(log_mel(signal, params)), dtype=np.float32))
        return rows

    @abstractmethod
    def row(self, bands: FloatArray) -> FloatArray:
        """Map the [windows, bins] of ``log_mel`` to [windows, width]."""


def log_mel(signal: FloatArray, params: SoundParams) -> FloatArray:
    """Map a signal, float32 [N], to [windows, bins]: ln(power in a mel band + FLOOR).

    Window i covers samples [i hop, i hop + window). Only whole windows are used; a signal shorter than one window is
    padded with zeros. Each is weighted by a periodic Hann window and transformed over ``fourier`` points; the squared
    magnitudes are summed with the weights of ``_triangles``. There is no mean removal and no pre-emphasis.
    """
    librosa = require_library(params.name, "librosa")
    signal = signal[: params.samples]
    margin = params.fourier - params.window  # librosa centers the window among the points
    lacking = max(params.window - len(signal), 0)
    signal = np.pad(signal, (margin // 2, margin - margin // 2 + lacking))
    keys = {"n_fft": params.fourier, "hop_length": params.hop, "win_length": params.window}
    spectrum = librosa.stft(signal, window="hann", center=False, **keys)
    bands = _triangles(params) @ np.square(np.abs(spectrum))
    logarithm: FloatArray = np.log(bands + np.float32(FLOOR)).T
    return logarithm


@cache
def _triangles(params: SoundParams) -> Any:
    """float32 [bins, fourier / 2 + 1]: triangles of height 1, equally spaced on the HTK mel scale."""
    librosa = require_library(params.name, "librosa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reported below
        keys = {"sr": params.rate, "n_fft": params.fourier, "n_mels": params.bins, "fmin": LOWEST}
        triangles = librosa.filters.mel(**keys, htk=True, norm=None)
    if not triangles.any(axis=1).all():
        found = f"{params.bins}, of which some contain no frequency of a window of {params.window_ms} ms"
        raise DataError(f"{params.name}: bins: expected fewer, found {found}; lower bins or raise window_ms")
    return triangles

"""Feature ``mfcc``: mel-frequency cepstral coefficients; needs the extra ``[features]`` (librosa)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.preparation.features.base import FloatArray
from fedrecon_core.preparation.features.extra import require_library
from fedrecon_core.preparation.features.spectral import SoundParams, SpectralFeature
from fedrecon_core.registry import FEATURES


class MfccParams(SoundParams):
    """``coefficients`` per window, the lowest of them; the other keys are those of sound (``SoundParams``)."""

    name: str = "mfcc"
    coefficients: int = Field(default=40, ge=1)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.coefficients > self.bins:
            raise InvalidValueError("coefficients", f"expected at most bins ({self.bins}), found {self.coefficients}")
        return self


@FEATURES.register("mfcc")
class Mfcc(SpectralFeature):
    """The orthonormal cosine transform (DCT-II) of ``log_mel``, the lowest 40 of its 80 coefficients."""

    Params = MfccParams
    params: MfccParams

    @property
    def width(self) -> int:
        """The coefficients."""
        return self.params.coefficients

    def row(self, bands: FloatArray) -> FloatArray:
        """[windows, bins] -> [windows, coefficients]."""
        librosa = require_library("mfcc", "librosa")
        coefficients: FloatArray = librosa.feature.mfcc(S=bands.T, n_mfcc=self.width, dct_type=2, norm="ortho").T
        return coefficients

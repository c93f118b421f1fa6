"""Feature ``mfcc``: mel-frequency cepstral coefficients; needs the extra ``[features]`` (librosa)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.preparation.features.base import FloatArray, require_library
from fedrecon_core.preparation.features.spectral import SoundParams, SpectralFeature
from fedrecon_core.registry import FEATURES


class MfccParams(SoundParams):
    """``coefficients``: number of the lowest coefficients per window; the other keys are those of ``SoundParams``."""

    name: str = "mfcc"
    coefficients: int = Field(default=40, ge=1)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.coefficients > self.bins:
            raise InvalidValueError("coefficients", f"expected at most bins ({self.bins}), found {self.coefficients}")
        return self


@FEATURES.register("mfcc")
class Mfcc(SpectralFeature):
    """The lowest 40 of the 80 coefficients of the orthonormal DCT-II of ``log_mel``."""

    Params = MfccParams
    params: MfccParams

    @property
    def width(self) -> int:
        """Number of coefficients."""
        return self.params.coefficients

    def row(self, bands: FloatArray) -> FloatArray:
        """Map [windows, bins] to [windows, coefficients]."""
        librosa = require_library("mfcc", "librosa")
        coefficients: FloatArray = librosa.feature.mfcc(S=bands.T, n_mfcc=self.width, dct_type=2, norm="ortho").T
        return coefficients

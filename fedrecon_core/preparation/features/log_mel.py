"""Feature ``log_mel``: logarithm of a sound's power in mel bands; needs the extra ``[features]`` (librosa)."""

from __future__ import annotations

from fedrecon_core.preparation.features.base import FloatArray
from fedrecon_core.preparation.features.spectral import SoundParams, SpectralFeature
from fedrecon_core.registry import FEATURES


class LogMelParams(SoundParams):
    """The keys of ``SoundParams``."""

    name: str = "log_mel"


@FEATURES.register("log_mel")
class LogMel(SpectralFeature):
    """ln(power + 1e-6) in 80 mel bands, every 10 ms (formula in ``spectral.log_mel``)."""

    Params = LogMelParams

    @property
    def width(self) -> int:
        """Number of bands."""
        return self.params.bins

    def row(self, bands: FloatArray) -> FloatArray:
        """Return ``bands`` unchanged."""
        return bands

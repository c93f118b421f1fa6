"""Feature ``log_mel``: the logarithm of a sound's power in mel bands; needs the extra ``[features]`` (librosa)."""

from __future__ import annotations

from fedrecon_core.preparation.features.base import FloatArray
from fedrecon_core.preparation.features.spectral import SoundParams, SpectralFeature
from fedrecon_core.registry import FEATURES


class LogMelParams(SoundParams):
    """The keys of sound; ``SoundParams`` explains them."""

    name: str = "log_mel"


@FEATURES.register("log_mel")
class LogMel(SpectralFeature):
    """ln(power + 1e-6) in 80 mel bands, every 10 ms; ``spectral.log_mel`` has the formula."""

    Params = LogMelParams

    @property
    def width(self) -> int:
        """The bands."""
        return self.params.bins

    def row(self, bands: FloatArray) -> FloatArray:
        """As they are."""
        return bands

"""``mask``: absent modalities give no token. The baseline that every reconstruction has to beat."""

from fedrecon_core.recovery.base import DropoutParams, Recovery
from fedrecon_core.registry import RECOVERIES


class MaskParams(DropoutParams):
    """No keys except that of modality dropout."""

    name: str = "mask"


@RECOVERIES.register("mask")
class Mask(Recovery):
    """Attention over present modalities only; a site trains and uploads the extractors of its own modalities."""

    Params = MaskParams

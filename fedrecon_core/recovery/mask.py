"""``mask``: absent modalities give no token at all. The baseline that every reconstruction has to beat."""

from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.dropout import DropoutParams
from fedrecon_core.registry import RECOVERIES


class MaskParams(DropoutParams):
    """No keys but those of modality dropout."""

    name: str = "mask"


@RECOVERIES.register("mask")
class Mask(Recovery):
    """Attention over present modalities only; a site trains and uploads the extractors of what it has."""

    Params = MaskParams

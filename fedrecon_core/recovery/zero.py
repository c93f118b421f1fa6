"""``zero``: absent modalities are filled with zeros, as the FedMultimodal benchmark does."""

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.constant import PlainFill
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class ZeroParams(Params):
    """``attended``: whether the fusion sees what the extractors make of the zeros. The FedMultimodal benchmark gives a
    missing sequence the length 0, so that its fusion does not: its extractors only stay as they are where a site lacks
    their modality, and are averaged with the others."""

    name: str = "zero"
    attended: bool = True


@RECOVERIES.register("zero")
class Zero(PlainFill):
    """Zeros in the space of the (scaled) input."""

    Params = ZeroParams

    def weight(self) -> float:
        """0 where the fusion is not to see the zeros."""
        return float(self.params.attended)

    def values(self, modality: ModalitySpec, rows: int, knowledge: Knowledge) -> Tensor:
        """[rows, *shape] of zeros."""
        return torch.zeros(rows, *modality.shape)

"""``zero``: absent modalities are filled with zeros, as the FedMultimodal benchmark does."""

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.constant import PlainFill
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class ZeroParams(Params):
    """``attended``: whether the fusion sees what the extractors make of the zeros. In the FedMultimodal benchmark what
    is missing has the length 0, so that its fusion does not see it; only the audio of MELD has a length of at least 1:
    there the fusion attends to one token made of zeros, and the extractor learns from it.

    An extractor whose tokens are not seen gets gradients of zero and is averaged with the others. What moves it is
    weight decay alone (with Adam by whole steps) and what a strategy adds to the gradients (``fedprox``, ``scaffold``).
    """

    name: str = "zero"
    attended: bool = True


@RECOVERIES.register("zero")
class Zero(PlainFill):
    """Zeros in the space of the (scaled) input."""

    Params = ZeroParams

    def weight(self) -> float:
        """0 where the fusion is not to see the zeros."""
        return float(self.params.attended)

    def values(self, modality: ModalitySpec, rows: int, global_info: GlobalInfo) -> Tensor:
        """[rows, *shape] of zeros."""
        return torch.zeros(rows, *modality.shape)

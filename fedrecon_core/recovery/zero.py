"""``zero``: absent modalities are filled with zeros, as the FedMultimodal benchmark does."""

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.constant import PlainFill
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class ZeroParams(Params):
    """No keys of its own."""

    name: str = "zero"


@RECOVERIES.register("zero")
class Zero(PlainFill):
    """Zeros in the space of the (scaled) input."""

    Params = ZeroParams

    def values(self, modality: ModalitySpec, rows: int, knowledge: Knowledge) -> Tensor:
        """[rows, *shape] of zeros."""
        return torch.zeros(rows, *modality.shape)

"""``zero``: absent modalities are filled with zeros, as in the FedMultimodal benchmark."""

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.base import PlainFill
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class ZeroParams(Params):
    """``attended``: whether the fusion attends to the tokens of the zeros.

    In the FedMultimodal benchmark a missing sequence has length 0, so the fusion ignores it. The audio of MELD is the
    exception: its length is at least 1, so the fusion attends to one token made of zeros and the extractor learns from
    it. An extractor whose tokens are ignored gets zero gradients and is still averaged with the others. It only changes
    through weight decay (with Adam by whole steps) and through gradient terms of a strategy (``fedprox``,
    ``scaffold``).
    """

    name: str = "zero"
    attended: bool = True


@RECOVERIES.register("zero")
class Zero(PlainFill):
    """Zeros in the space of the (scaled) input."""

    Params = ZeroParams

    def weight(self) -> float:
        """0 if the fusion ignores the zeros."""
        return float(self.params.attended)

    def values(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape] of zeros."""
        return torch.zeros(len(ids), *modality.shape)

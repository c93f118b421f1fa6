"""``mean``: absent modalities are filled with the federation-wide training mean of the modality."""

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.constant import PlainFill
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class MeanParams(Params):
    """No keys of its own."""

    name: str = "mean"


@RECOVERIES.register("mean")
class Mean(PlainFill):
    """The mean over all present training rows of all sites, per feature; zeros while no site has the modality."""

    Params = MeanParams
    reads_statistics = True

    def values(self, modality: ModalitySpec, rows: int, global_info: GlobalInfo) -> Tensor:
        """[rows, *shape], every row the mean."""
        statistics = global_info.statistics.get(modality.name)
        if statistics is None:
            return torch.zeros(rows, *modality.shape)
        return spread(statistics.mean.float(), modality, rows)


def spread(feature: Tensor, modality: ModalitySpec, rows: int) -> Tensor:
    """Per-feature values [F] as [rows, *shape]; the steps of a sequence repeat them."""
    return feature.view(modality.features).expand(rows, *modality.shape).clone()

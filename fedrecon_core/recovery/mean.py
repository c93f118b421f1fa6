"""``mean``: absent modalities are filled with the modality's mean over the federation's training data."""

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.base import PlainFill, expand_features
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class MeanParams(Params):
    """This recovery has no keys."""

    name: str = "mean"


@RECOVERIES.register("mean")
class Mean(PlainFill):
    """The mean over all present training rows of all sites, per feature; zeros while no site has the modality."""

    Params = MeanParams
    reads_statistics = True

    def values(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape]; every row is the mean."""
        statistics = global_info.statistics.get(modality.name)
        if statistics is None:
            return torch.zeros(len(ids), *modality.shape)
        return expand_features(statistics.mean.float(), modality, len(ids))

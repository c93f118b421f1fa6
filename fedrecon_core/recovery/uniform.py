"""``uniform``: absent modalities are filled with uniform noise, the second baseline of the feature imputation paper."""

import math

import torch
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.recovery.constant import PlainFill
from fedrecon_core.recovery.mean import spread
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class UniformParams(Params):
    """No keys of its own."""

    name: str = "uniform"


@RECOVERIES.register("uniform")
class Uniform(PlainFill):
    """Per feature, the uniform distribution with the mean and the standard deviation of the training data."""

    Params = UniformParams
    reads_statistics = True

    def values(self, modality: ModalitySpec, rows: int, knowledge: Knowledge) -> Tensor:
        """[rows, *shape], drawn from the global generator (inside the stage's seeding scope)."""
        noise = torch.rand(rows, *modality.shape)
        statistics = knowledge.statistics.get(modality.name)
        if statistics is None:
            return noise
        half_width = math.sqrt(3) * spread(statistics.std.float(), modality, rows)
        return spread(statistics.mean.float(), modality, rows) + (2 * noise - 1) * half_width

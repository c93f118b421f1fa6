"""``fedrs``: a restricted softmax, in which the classes that a site lacks count less (Li and Zhan 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrecon_core.errors import ConfigError
from fedrecon_core.local.hook import HookState, LocalHook
from fedrecon_core.recovery.stage import LocalContext
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import HEAD_GROUP
from fedrecon_core.types import DatasetSpec
from strategies.fedavg import FedAvg, FedAvgParams


class FedRSParams(FedAvgParams):
    """In training the logit of class c is w_c . h where the site has samples of c and ``alpha`` w_c . h where it has
    none (Li and Zhan 2021): the smaller ``alpha``, the less a site suppresses the classes that it never sees. 0.9 is
    the value of the FedMultimodal benchmark (Feng et al. 2023).

    As in the benchmark, the last layer's bias is not trained: it keeps its initial value, which evaluation adds.
    """

    name: str = "fedrs"
    alpha: float = Field(default=0.9, ge=0, le=1)

    def check_data(self, spec: DatasetSpec) -> None:
        """Raise ``ConfigError`` for data with several labels per sample, which have no softmax over the classes."""
        if spec.target == "multilabel":
            raise ConfigError(
                "strategy.name: fedrs restricts the softmax over the classes: expected data with one class per sample, "
                f"found the multilabel data set {spec.name}; choose another strategy"
            )


class RestrictedSoftmax(LocalHook):
    """Scales the logits by the site's classes, and excludes the last layer's bias from training."""

    _bias: nn.Parameter
    _scale: Tensor

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def begin(self, context: LocalContext, memory: HookState) -> None:
        """Compute the scale [C] from the classes of the site's training samples."""
        classifier = cast(nn.Sequential, context.groups[HEAD_GROUP].classifier)
        self._bias = cast(nn.Linear, classifier[-1]).bias
        held = torch.bincount(context.data.labels, minlength=len(self._bias)) > 0
        self._scale = torch.where(held, 1.0, self.alpha)

    def logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, C]: scale_c w_c . h; the model's own are w_c . h + b_c."""
        return (logits - self._bias.detach()) * self._scale

    def gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Remove the gradient of the bias, so that the optimizer, its weight decay and clipping ignore the bias."""
        self._bias.grad = None


@STRATEGIES.register("fedrs")
class FedRS(FedAvg):
    """The server averages as in ``fedavg``."""

    Params = FedRSParams

    @staticmethod
    def local_half(params: Any) -> LocalHook:
        """The restricted softmax."""
        return RestrictedSoftmax(params.alpha)

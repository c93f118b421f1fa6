"""``fedprox``: a penalty at the sites on the distance from the received model (Li et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fedrecon_core.config import GroupSelection
from fedrecon_core.local.hook import HookState, LocalHook
from fedrecon_core.recovery.stage import LocalContext
from fedrecon_core.registry import STRATEGIES
from strategies.fedavg import FedAvg, FedAvgParams


class FedProxParams(GroupSelection, FedAvgParams):
    """The sites minimize loss + ``mu`` / 2 * ||w - w_received||^2 (Li et al. 2020, Eq. 2). A ``mu`` of exactly 0 is
    ``fedavg``; a tiny one may differ from it (see ``Proximal``).

    ``groups`` are name prefixes of the groups that are penalized, in all stages that train them. The gradient is
    clipped after the penalty's gradient was added (the FedMultimodal benchmark adds it after clipping). The reported
    training loss does not contain the penalty, so that it can be compared with that of other strategies."""

    name: str = "fedprox"
    mu: float = Field(default=0.01, ge=0)


class Proximal(LocalHook):
    """Adds ``mu`` (w - w_received), the gradient of the penalty, to the gradients in place.

    In some batches parameters have no gradient, for example an extractor whose modality no sample has. The penalty is
    added for them, too, except for parameters that had no gradient in any batch of this round so far: they have not
    moved, and without a gradient the optimizer's weight decay does not change them, as in ``fedavg``.

    All other parameters get the penalty's gradient in such a batch, however small it is. In ``fedavg`` they have no
    gradient there; here momentum, Adam's moments and weight decay change them. With data in which 3% of the samples
    have one of five modalities (one seed, ``mask``, Adam), test UAR is 84.5% and loss 0.74 at ``mu`` 0, and 83.9% and
    0.83 at 1e-12:

        fedrecon run --set recovery.name=mask --set strategy.name=fedprox --set strategy.mu=1e-12
            --set missing.train.level=sample --set "missing.train.rate={m0: 0.97, m1: 0, m2: 0, m3: 0, m4: 0}"
    """

    def __init__(self, mu: float, groups: tuple[str, ...]) -> None:
        self.mu = mu
        self.groups = groups
        self._start: dict[str, Tensor] = {}
        self._reached: set[str] = set()

    def begin(self, context: LocalContext, memory: HookState) -> None:
        """Store the received parameters."""
        self._reached = set()
        self._start = {
            f"{group}/{name}": parameter.detach().clone()
            for group, module in context.groups.items()
            if group.startswith(self.groups)
            for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Add the penalty's gradient."""
        weights: list[Tensor] = []
        gradients: list[Tensor] = []
        starts: list[Tensor] = []
        for name, parameter in parameters:
            if name in self._start and parameter.grad is not None:
                self._reached.add(name)
            if name in self._reached:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                weights.append(parameter)
                gradients.append(parameter.grad)
                starts.append(self._start[name])
        if weights:
            torch._foreach_add_(gradients, torch._foreach_sub(weights, starts), alpha=self.mu)


@STRATEGIES.register("fedprox")
class FedProx(FedAvg):
    """The server averages as in ``fedavg``."""

    Params = FedProxParams

    @staticmethod
    def local_half(params: Any) -> LocalHook:
        """The penalty, or the plain round of ``fedavg`` if ``mu`` is 0."""
        return Proximal(params.mu, params.groups) if params.mu else LocalHook()

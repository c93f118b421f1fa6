"""``fedopt``: the server takes an optimiser step along the sites' average update (Reddi et al. 2021, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, model_validator

from fedrecon_core.faults import MisfitError
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State
from strategies.fedavg import FedAvg, FedAvgParams
from strategies.federation import Federation


class FedOptParams(FedAvgParams):
    """Server SGD with momentum on the pseudo-gradient (w_global - w_average) / ``client_lr``.

    One round moves the model by ``lr / client_lr`` times the average update, and momentum makes that
    ``lr / client_lr / (1 - momentum)`` times where updates agree from round to round. ``lr`` null is
    ``(1 - momentum) * client_lr``: in the long run just the average update, smoothed over about ``1 / (1 - momentum)``
    rounds, whatever the sites' optimiser and learning rate; without momentum it is ``fedavg``.

    The FedMultimodal benchmark sets ``momentum: 0.9`` and an ``lr`` of 0.1 to 0.5 times the sites' (which use SGD);
    much more diverges. ``client_lr`` null takes the learning rate of the task stage, as there. ``groups`` are name
    prefixes of the groups that it acts on; all others are plain averages.
    """

    name: str = "fedopt"
    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.5, ge=0, lt=1)
    client_lr: float | None = Field(default=None, gt=0)
    groups: tuple[str, ...] = ("task.",)

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.lr is None and self.client_lr is not None:
            raise MisfitError("client_lr", f"expected none without lr (it would cancel out), found {self.client_lr}")
        return self


@STRATEGIES.register("fedopt")
class FedOpt(FedAvg):
    """A group that nobody returned keeps its parameters and its momentum."""

    Params = FedOptParams

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._momentum: dict[str, State] = {}

    def server_step(self, group: str, old: State, average: State) -> State:
        """SGD with momentum, tensor by tensor, as ``torch.optim.SGD`` steps."""
        if not group.startswith(self.params.groups):
            return average
        scale, lr = self._rates()
        before = self._momentum.get(group)
        momentum, new = {}, {}
        for name, tensor in old.items():
            gradient = (tensor - average[name]) / scale
            momentum[name] = gradient if before is None else self.params.momentum * before[name] + gradient
            new[name] = torch.add(tensor, momentum[name], alpha=-lr)
        self._momentum[group] = momentum
        return new

    def _rates(self) -> tuple[float, float]:
        """The sites' learning rate and the server's."""
        client = self.params.client_lr or self.federation.config.local.task.lr
        return client, (1 - self.params.momentum) * client if self.params.lr is None else self.params.lr

    def state(self) -> dict[str, State]:
        """The momentum of every group that was stepped."""
        return dict(self._momentum)

    def load_state(self, state: Mapping[str, State]) -> None:
        """Take up the momentum again."""
        self._momentum = {group: dict(tensors) for group, tensors in state.items()}

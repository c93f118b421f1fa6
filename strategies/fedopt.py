"""``fedopt``: the server takes an optimiser step along the sites' average update (Reddi et al. 2021, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State
from strategies.fedavg import FedAvg, FedAvgParams
from strategies.federation import Federation


class FedOptParams(FedAvgParams):
    """Server SGD with momentum on the pseudo-gradient (w_global - w_average) / ``client_lr``.

    ``groups`` are name prefixes of the groups that it acts on; all others are plain averages. ``client_lr`` null takes
    the learning rate of the task stage, as the FedMultimodal benchmark does.
    """

    name: str = "fedopt"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    client_lr: float | None = Field(default=None, gt=0)
    groups: tuple[str, ...] = ("task.",)


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
        scale = self.params.client_lr or self.federation.config.local.task.lr
        before = self._momentum.get(group)
        momentum, new = {}, {}
        for name, tensor in old.items():
            gradient = (tensor - average[name]) / scale
            momentum[name] = gradient if before is None else self.params.momentum * before[name] + gradient
            new[name] = torch.add(tensor, momentum[name], alpha=-self.params.lr)
        self._momentum[group] = momentum
        return new

    def state(self) -> dict[str, State]:
        """The momentum of every group that was stepped."""
        return dict(self._momentum)

    def load_state(self, state: Mapping[str, State]) -> None:
        """Take up the momentum again."""
        self._momentum = {group: dict(tensors) for group, tensors in state.items()}

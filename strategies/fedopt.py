"""``fedopt``: the server takes an optimizer step along the sites' average update (Reddi et al. 2021, Algorithm 2).

Flower's own strategies of this kind (FedAvgM, FedAdam, FedYogi, FedAdagrad) are not used for three reasons. They update
one flat model that every reply must contain as a whole, but sites here have different groups. Their moments cannot be
read, so that no checkpoint can store them. And their Adam corrects its bias by the number of the round instead of the
number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from fedrecon_core.config import GroupSelection, require_defaults
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State
from strategies.fedavg import FedAvg, FedAvgParams
from strategies.federation import Federation
from strategies.server_optimizers import RULES, Name, stepped


class FedOptParams(GroupSelection, FedAvgParams):
    """The server's ``optimizer`` steps along the pseudo-gradient (w_global - w_average) / ``client_lr``; ``client_lr``
    null is the learning rate of the task stage (that of round 1). ``groups`` are name prefixes of the groups that it
    updates; all others are plain averages. A key that the chosen optimizer does not use is an error.

    ``sgd`` with ``momentum``: one round moves the model by ``lr / client_lr`` times the average update. If updates
    agree from round to round, momentum increases this factor to ``lr / client_lr / (1 - momentum)``. ``lr`` null is
    ``(1 - momentum) * client_lr``: in the long run, the model then moves by exactly the average update, smoothed over
    about ``1 / (1 - momentum)`` rounds, for any optimizer and learning rate of the sites. Without momentum this is
    ``fedavg``. The FedMultimodal benchmark sets ``momentum: 0.9`` and an ``lr`` of 0.1 to 0.5 times that of the sites
    (which use SGD); a much larger one diverges.

    ``adam``, ``yogi`` (``beta1``, ``beta2``, ``tau``) and ``adagrad`` (``tau``): a round moves a parameter by about
    ``lr``, however far the sites moved it; ``lr`` null is 0.03. ``tau`` is added to the root, like eps in torch.optim:
    a pseudo-gradient much smaller than ``tau`` moves its parameter in proportion to its size. ``client_lr`` only has an
    effect relative to ``tau``; if it is 1, ``tau`` is that of Reddi et al.
    """

    name: str = "fedopt"
    optimizer: Name = "sgd"
    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.5, ge=0, lt=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)
    client_lr: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        read = RULES[self.optimizer].keys
        others = {key: name for name, rule in RULES.items() for key in rule.keys if key not in read}
        require_defaults(self, tuple(others), f"with optimizer {self.optimizer} (it uses {', '.join(read)})")
        if self.optimizer == "sgd" and self.lr is None and self.client_lr is not None:
            raise InvalidValueError(
                "client_lr", f"expected none without lr (it would cancel out), found {self.client_lr}"
            )
        return self


@STRATEGIES.register("fedopt")
class FedOpt(FedAvg):
    """Updates each group by a server optimizer. A group that no site returned keeps its parameters and optimizer
    state."""

    Params = FedOptParams

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._state: dict[str, State] = {}

    def server_step(self, group: str, old: State, average: State) -> State:
        """One step of the optimizer, with ``old`` as its parameters."""
        if not group.startswith(self.params.groups):
            return average
        keys, rule = self.params, RULES[self.params.optimizer]
        client = keys.client_lr or self.federation.config.local.task.lr
        lr = rule.default_lr(keys, client) if keys.lr is None else keys.lr
        gradient = {name: (tensor - average[name]) / client for name, tensor in old.items()}
        before = self._state.get(group, {})
        new, self._state[group] = stepped(lambda tensors: rule.make(tensors, keys, lr), old, gradient, before)
        return new

    def state(self) -> dict[str, State]:
        """Group -> state of the optimizer, for every group that was updated."""
        return dict(self._state)

    def load_state(self, state: Mapping[str, State]) -> None:
        """Restore the state of the optimizers."""
        self._state = {group: dict(tensors) for group, tensors in state.items()}

"""The server optimizers of ``fedopt``, and one step of any of them on plain tensors.

They come from ``torch.optim``, except for Yogi, which it lacks. Adam and Yogi correct the bias of moments that
start at zero, unlike those of Reddi et al.: with betas of 0.9 and 0.99, equal gradients would otherwise move a
parameter by ``lr`` in the first round and by 2.1 times as much in the thirteenth, which matters since a run has few
rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer

from fedrecon_core.state import State

Name = Literal["sgd", "adam", "yogi", "adagrad"]

ADAPTIVE_LR = 0.03
"""Default learning rate of optimizers whose steps have the size ``lr``, whatever the size of the sites' steps. With it,
each of them learns the toy federation in 20 rounds, whether the sites use Adam or SGD
(``tests/contract/test_strategies.py``)."""


class Yogi(Optimizer):
    """Adam whose second moment changes by at most (1 - beta2) g^2 per step (Zaheer et al. 2018, Algorithm 2; Reddi et
    al. 2021): v = v - (1 - beta2) sign(v - g^2) g^2, so that large gradients are forgotten slowly.

    Both moments start at zero and are divided by 1 - beta^t, as in ``torch.optim.Adam``.
    """

    def __init__(self, tensors: Iterable[Tensor], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(tensors, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along every tensor's ``grad``."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for tensor in group["params"]:
                state = self.state[tensor]
                if not state:
                    zeros = {key: torch.zeros_like(tensor) for key in ("exp_avg", "exp_avg_sq")}
                    state.update(step=torch.zeros(()), **zeros)
                square, mean, second = tensor.grad**2, state["exp_avg"], state["exp_avg_sq"]
                state["step"] += 1
                mean.lerp_(tensor.grad, 1 - beta1)
                second.sub_((second - square).sign() * square, alpha=1 - beta2)
                taken = float(state["step"])
                scale = (second / (1 - beta2**taken)).sqrt_().add_(group["eps"])
                tensor.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**taken))


@dataclass(frozen=True)
class Rule:
    """``make(tensors, keys, lr)`` builds the optimizer from the keys of ``fedopt``; ``keys`` names the keys that only
    some optimizers use; ``default_lr(keys, client_lr)`` is its learning rate if the config sets none."""

    make: Callable[[list[Tensor], Any, float], Optimizer]
    keys: tuple[str, ...]
    default_lr: Callable[[Any, float], float]


RULES: dict[Name, Rule] = {
    "sgd": Rule(
        lambda tensors, keys, lr: SGD(tensors, lr=lr, momentum=keys.momentum),
        keys=("momentum",),
        default_lr=lambda keys, client: (1 - keys.momentum) * client,
    ),
    "adam": Rule(
        lambda tensors, keys, lr: Adam(tensors, lr=lr, betas=(keys.beta1, keys.beta2), eps=keys.tau),
        keys=("beta1", "beta2", "tau"),
        default_lr=lambda keys, client: ADAPTIVE_LR,
    ),
    "yogi": Rule(
        lambda tensors, keys, lr: Yogi(tensors, lr=lr, betas=(keys.beta1, keys.beta2), eps=keys.tau),
        keys=("beta1", "beta2", "tau"),
        default_lr=lambda keys, client: ADAPTIVE_LR,
    ),
    "adagrad": Rule(
        lambda tensors, keys, lr: Adagrad(tensors, lr=lr, eps=keys.tau),
        keys=("tau",),
        default_lr=lambda keys, client: ADAPTIVE_LR,
    ),
}


def stepped(
    make: Callable[[list[Tensor]], Optimizer], old: State, gradient: State, state: State
) -> tuple[State, State]:
    """Return ``old`` after one step along ``gradient``, and the optimizer's state after it.

    ``state`` is the state after the previous step, empty before the first: the entries of the optimizer's own state as
    ``tensor.entry``, plain tensors that a checkpoint can store. The arguments are not changed.
    """
    new = {name: tensor.clone() for name, tensor in old.items()}
    optimizer = make(list(new.values()))
    if state:
        by_tensor: dict[str, State] = {name: {} for name in new}
        for key, value in state.items():
            name, _, entry = key.rpartition(".")
            by_tensor[name][entry] = value.clone()  # the optimizer changes it in place
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(enumerate(by_tensor.values()))})
    for name, tensor in new.items():
        tensor.grad = gradient[name]
    optimizer.step()
    after = {f"{n}.{key}": value for n, t in new.items() for key, value in optimizer.state[t].items()}
    return {name: tensor.detach() for name, tensor in new.items()}, after

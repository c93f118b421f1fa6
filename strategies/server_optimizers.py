"""The server optimisers of ``fedopt``, and a step of any of them on plain tensors.

torch.optim's own wherever it has one; Yogi, which it lacks, is written here as one of them. Adam and Yogi correct the
bias of moments that start at zero, which Reddi et al. do not: at betas of 0.9 and 0.99, gradients that agree would move
a parameter by ``lr`` in the first round and by 2.1 times as much in the thirteenth, and a run has few rounds.
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
"""The default of optimisers whose step has the size of ``lr``, whatever the size of the sites' steps: with it each of
them learns the toy federation in 20 rounds, from sites with Adam and with SGD (``test_server_optimizers.py``)."""


class Yogi(Optimizer):
    """Adam whose second moment moves by at most (1 - beta2) g^2 a step (Zaheer et al. 2018, Algorithm 2; Reddi et al.
    2021): v = v - (1 - beta2) sign(v - g^2) g^2, so that it forgets large gradients slowly.

    Both moments start at zero and are divided by 1 - beta^t, as ``torch.optim.Adam`` does.
    """

    def __init__(self, tensors: Iterable[Tensor], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(tensors, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along every tensor's ``grad``."""
        for group in self.param_groups:
            for tensor in group["params"]:
                self._move(tensor, group)

    def _move(self, tensor: Tensor, keys: dict[str, Any]) -> None:
        gradient: Any = tensor.grad
        state, (beta1, beta2) = self.state[tensor], keys["betas"]
        if not state:
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(tensor), exp_avg_sq=torch.zeros_like(tensor))
        square, mean, second = gradient**2, state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        mean.lerp_(gradient, 1 - beta1)
        second.sub_((second - square).sign() * square, alpha=1 - beta2)
        taken = float(state["step"])
        scale = (second / (1 - beta2**taken)).sqrt_().add_(keys["eps"])
        tensor.addcdiv_(mean, scale, value=-keys["lr"] / (1 - beta1**taken))


@dataclass(frozen=True)
class Rule:
    """``make(tensors, keys, lr)`` builds the optimiser from ``fedopt``'s keys; ``keys`` are those that it reads and
    others do not; ``default_lr(keys, client_lr)`` is its learning rate where the config has none."""

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
    """(``old`` after one step along ``gradient``, the optimiser's state after it).

    ``state`` is the state after the previous step, empty before the first: the entries of the optimiser's own state as
    ``tensor.entry``, plain tensors that a checkpoint can hold. The arguments are not changed.
    """
    new = {name: tensor.clone() for name, tensor in old.items()}
    optimizer = make(list(new.values()))
    if state:
        kept = [_entries(state, name) for name in new]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(enumerate(kept))})
    for name, tensor in new.items():
        tensor.grad = gradient[name]
    optimizer.step()
    after = {f"{n}.{key}": value for n, t in new.items() for key, value in optimizer.state[t].items()}
    return {name: tensor.detach() for name, tensor in new.items()}, after


def _entries(state: State, name: str) -> State:
    """A copy of what ``state`` holds of the tensor ``name``: the optimiser changes it in place."""
    split = [(key.rpartition("."), value) for key, value in state.items()]
    return {entry: value.clone() for (tensor, _, entry), value in split if tensor == name}

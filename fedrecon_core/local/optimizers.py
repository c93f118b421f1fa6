"""Optimizers of the local stages: one fused kernel updates all parameters.

They call the functional optimizers of ``torch.optim``. The classes there would import ``torch._dynamo`` and SymPy when
the first object is made, which takes more than a second in every new process, and update one parameter at a time by
default on a CPU, which takes about four times as long.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedrecon_core.config import Phase

BETAS = (0.9, 0.999)
EPS = 1e-8
"""The defaults of ``torch.optim.Adam``."""


class Optimizer(ABC):
    """Updates ``parameters`` from their gradients."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)

    def zero_grad(self) -> None:
        """Discard all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def step(self) -> None:
        """Update every parameter that has a gradient."""


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with L2 regularization, as ``torch.optim.Adam``."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self._state = [(torch.zeros_like(p), torch.zeros_like(p), p.new_zeros(())) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        used = [
            (p, p.grad, *state) for p, state in zip(self.parameters, self._state, strict=True) if p.grad is not None
        ]
        if not used:
            return
        parameters, gradients, means, squares, steps = map(list, zip(*used, strict=True))
        adam(
            parameters,
            gradients,
            means,
            squares,
            [],  # the largest squares, for amsgrad only
            steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 regularization, as ``torch.optim.SGD``."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._buffers = [torch.zeros_like(p) if momentum else None for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        used = [(p, p.grad, b) for p, b in zip(self.parameters, self._buffers, strict=True) if p.grad is not None]
        if not used:
            return
        parameters, gradients, buffers = map(list, zip(*used, strict=True))
        sgd(
            parameters,
            gradients,
            buffers,
            fused=True,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


def optimizer_for(phase: Phase, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """A new optimizer: as in the benchmark, each stage starts without momentum from the last one."""
    if phase.optimizer == "sgd":
        return SGD(parameters, phase.lr, phase.momentum, phase.weight_decay)
    return Adam(parameters, phase.lr, phase.weight_decay)

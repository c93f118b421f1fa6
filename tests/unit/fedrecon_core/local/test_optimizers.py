"""The optimizers of the local stages against the classes of ``torch.optim``."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from fedrecon_core.config.sections import Phase
from fedrecon_core.local.optimizers import optimizer_for

PHASES = {
    "adam": Phase(optimizer="adam", lr=2e-3),
    "adam with weight decay": Phase(optimizer="adam", lr=2e-3, weight_decay=0.1),
    "sgd": Phase(optimizer="sgd", lr=0.1),
    "sgd with momentum": Phase(optimizer="sgd", lr=0.1, momentum=0.9),
    "sgd with momentum and weight decay": Phase(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.1),
}
LATE_IMPORTS = """
import sys
import torch
from fedrecon_core.config.sections import Phase
from fedrecon_core.local.optimizers import optimizer_for
for phase in (Phase(optimizer="adam"), Phase(optimizer="sgd", momentum=0.9)):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_for(phase, [parameter])
    optimizer.zero_grad()
    parameter.sum().backward()
    optimizer.step()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def reference(phase: Phase, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if phase.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=phase.lr, momentum=phase.momentum, weight_decay=phase.weight_decay)
    return torch.optim.Adam(parameters, lr=phase.lr, weight_decay=phase.weight_decay)


@pytest.mark.parametrize("name", PHASES)
def test_twenty_steps_are_those_of_the_library(name):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    theirs = copy.deepcopy(ours)
    optimizer = optimizer_for(PHASES[name], list(ours.parameters()))
    expected = reference(PHASES[name], list(theirs.parameters()))
    for step in range(20):
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        for model, one in ((ours, optimizer), (theirs, expected)):
            one.zero_grad()
            model(inputs).square().mean().backward()
            one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PHASES)
def test_a_parameter_without_a_gradient_is_left_alone_until_it_has_one(name):
    used, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    other_used, other_late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer, expected = optimizer_for(PHASES[name], [used, late]), reference(PHASES[name], [other_used, other_late])
    for step in range(4):
        for one, pair in ((optimizer, (used, late)), (expected, (other_used, other_late))):
            one.zero_grad()
            (pair[0].square().sum() + (pair[1].square().sum() if step > 1 else 0)).backward()
            one.step()
        assert torch.equal(late, torch.ones(2)) == (step < 2)
    torch.testing.assert_close(used, other_used)
    torch.testing.assert_close(late, other_late)


def test_a_step_without_any_gradient_changes_nothing():
    parameter = nn.Parameter(torch.ones(3))
    optimizer_for(PHASES["adam"], [parameter]).step()
    assert torch.equal(parameter, torch.ones(3))


def test_no_step_imports_the_compiler():
    """The classes of ``torch.optim`` do, which takes more than a second in every process."""
    done = subprocess.run([sys.executable, "-c", LATE_IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The hyperbolic tangent of the fusion: its stated error, its gradient, and its ends."""

import pytest
import torch

from fedrecon_core.task.attention import squash_

pytestmark = pytest.mark.quick


def test_the_error_is_below_what_is_stated():
    grid = torch.cat(
        [torch.linspace(-20, 20, 400_001), torch.logspace(-30, 38, 100_000), -torch.logspace(-30, 38, 100_000)]
    )
    error = (squash_(grid.clone()).double() - grid.double().tanh()).abs()
    assert float(error.max()) < 2e-7


def test_ends_and_what_is_no_number():
    found = squash_(torch.tensor([float("inf"), -float("inf"), 0.0, float("nan")]))
    assert found[:3].tolist() == [1.0, -1.0, 0.0] and found[3].isnan()


def test_the_gradient_is_the_librarys():
    torch.manual_seed(0)
    values, weights = torch.randn(40, dtype=torch.float64, requires_grad=True), torch.randn(40, dtype=torch.float64)
    (found,) = torch.autograd.grad((squash_(values * 3) * weights).sum(), values)
    (expected,) = torch.autograd.grad(((values * 3).tanh() * weights).sum(), values)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda given: squash_(given * 2), values)


def test_what_is_read_after_it_and_needs_what_it_wrote_over_is_refused():
    values = torch.randn(4, requires_grad=True).square()
    squares = values * values
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (squash_(values) + squares).sum().backward()

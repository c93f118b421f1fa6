"""Every registered strategy against its contract; a new file in ``strategies`` is tested here with no edit."""

import inspect

import pytest

from fedrecon_core.registry import CORE_PACKAGES, STRATEGIES, discover
from tests.contract.strategy_checks import CHECKS, LONG

discover((*CORE_PACKAGES, "strategies"))


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, marks=() if check in LONG else pytest.mark.quick) for check in CHECKS],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
@pytest.mark.parametrize("name", STRATEGIES.names())
def test_strategy(name, check, tmp_path):
    arguments = (name, tmp_path) if "folder" in inspect.signature(check).parameters else (name,)
    check(*arguments)

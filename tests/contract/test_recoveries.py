"""Every registered recovery against its contract; a new file in ``fedrecon_core/recovery`` is tested with no edit."""

import pytest

from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, discover
from tests.contract.recovery_checks import CHECKS

pytestmark = pytest.mark.quick
discover((*CORE_PACKAGES, "strategies"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", RECOVERIES.names())
def test_recovery(name, check):
    check(name)

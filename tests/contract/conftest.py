"""The checks are plain functions in modules of their own; pytest explains their asserts as it does those of tests."""

import pytest

pytest.register_assert_rewrite(
    *(f"tests.contract.{kind}_checks" for kind in ("fusion", "metric", "modality", "partition"))
)

"""The table of strategy keys in docs/configuration.md against the keys and defaults in the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrecon_core.registry import CORE_PACKAGES, STRATEGIES, discover

discover((*CORE_PACKAGES, "strategies"))

GUIDE = Path(__file__).parents[2] / "docs" / "configuration.md"
CODE = re.compile(r"`([^`]+)`")
SHARED = {"weighting", "robust", "groups"}
NO_VALUE = "1/3 each"


def told() -> dict[str, dict[str, str]]:
    """Strategy -> key -> the default that the table gives, of the keys that belong to one strategy alone."""
    after = GUIDE.read_text(encoding="utf-8").partition("| strategy | key | default | meaning |\n")[2]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in after.partition("\n\n")[0].splitlines()]
    found: dict[str, dict[str, str]] = {}
    strategy = ""
    for owner, keys, defaults, _ in rows[1:]:
        strategy = owner.strip("` ") or strategy
        named = CODE.findall(keys)
        found.setdefault(strategy, {}).update(zip(named, defaults.split(", "), strict=True))
    return found


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_own_key_stands_in_the_table_with_its_default(name: str) -> None:
    cls: Any = STRATEGIES.get(name)
    fields = cls.Params.model_fields
    own = told().get(name, {})
    assert set(own) == set(fields) - {"name", *SHARED}
    for key, default in own.items():
        if default != NO_VALUE:
            assert yaml.safe_load(default.strip("`")) == fields[key].default, key


def test_shared_keys_stand_in_the_table_once() -> None:
    shared = {key for owner, keys in told().items() if owner not in STRATEGIES.names() for key in keys}
    assert shared == SHARED

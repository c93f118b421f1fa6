"""The tables of strategies in docs/configuration.md against the code: requirements, keys and defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrecon_core.config import StrategyParams, parse
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from strategies.fedavg import FedAvg
from tests.docs import composition
from tests.golden import runs
from tests.helpers.contract_support import restored
from tests.helpers.runs import run

VARIANTS = [{"name": name, **options} for name, variants in composition.VARIANTS.items() for options in variants]


@pytest.mark.quick
def test_table_matches_the_config():
    page = composition.GUIDE.read_text(encoding="utf-8")
    assert page == composition.with_table(page), f"write the table anew: {composition.COMMAND}"


@pytest.mark.quick
def test_table_lists_the_requirements_of_every_strategy():
    rows = dict(line.strip("| ").split(" | ") for line in composition.table().splitlines()[2:])
    assert {row for row in rows if " with " not in row} == {f"`{name}`" for name in STRATEGIES.names()}
    assert rows["`fedavg`"] == "nothing" and rows["`fedrs`"] == "one class per sample"
    assert rows["`scaffold`"] == "`local.task.optimizer: sgd`"
    assert rows["`mmfedmc`"] == "at most 10 modalities; no `strategy.robust`"
    assert rows["`mmfedmc` with `fusion: local`"].startswith(
        "`evaluate.where: sites`; one class per sample; at most 10"
    )


@pytest.mark.quick
@pytest.mark.parametrize("strategy", STRATEGIES.names())
@pytest.mark.parametrize("recovery", RECOVERIES.names())
def test_every_pair_composes_or_is_refused_in_the_table(recovery, strategy):
    try:
        config, _ = composition.completed({"name": strategy}, recovery)
    except ConfigError as error:
        assert f"another recovery than `{recovery}` ({error})" in composition.table()
    else:
        assert parse(config.model_dump(mode="json")) == config
        assert (config.recovery.name, config.strategy.name) == (recovery, strategy)


@pytest.mark.parametrize("keys", VARIANTS, ids=lambda keys: "-".join(keys.values()))
def test_variant_of_a_strategy_runs(keys, tmp_path):
    """The strategies themselves have golden runs."""
    config, _ = composition.completed(keys, "fedrecon")
    directory = run(tmp_path, {**config.model_dump(mode="json"), "rounds": 1})
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "completed" and result["bytes_up"] > 0


class PickyParams(StrategyParams):
    """Refuses the recovery ``mean``."""

    name: str = "picky"

    def check_run(self, run: Any) -> None:
        if run.recovery.name == "mean":
            raise InvalidValueError("recovery.name", "expected another with picky (a mean is not enough), found mean")


class Picky(FedAvg):
    """A strategy that refuses a recovery."""

    Params = PickyParams


@pytest.mark.quick
def test_new_strategy_and_its_refusals_appear_in_the_table():
    page = composition.GUIDE.read_text(encoding="utf-8")
    with restored(STRATEGIES):
        STRATEGIES.register("picky")(Picky)
        found = composition.table()
        refusal = "recovery.name: expected another with picky (a mean is not enough), found mean"
        assert f"| `picky` | no `strategy.robust`; another recovery than `mean` ({refusal}) |" in found
        assert composition.with_table(page) != page
        assert ("fedrecon", "picky") in runs.pairs()


# --- keys of the strategies -------------------------------------------------------------------------------------------

discover((*CORE_PACKAGES, "strategies"))

GUIDE = Path(__file__).parents[2] / "docs" / "configuration.md"
CODE = re.compile(r"`([^`]+)`")
SHARED = {"weighting", "robust", "groups"}
NO_VALUE = "1/3 each"


def documented_keys() -> dict[str, dict[str, str]]:
    """Strategy -> key -> default in the table; keys of several strategies have a row of their own."""
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
def test_table_has_every_own_key_with_its_default(name: str) -> None:
    cls: Any = STRATEGIES.get(name)
    fields = cls.Params.model_fields
    own = documented_keys().get(name, {})
    assert set(own) == set(fields) - {"name", *SHARED}
    for key, default in own.items():
        if default != NO_VALUE:
            assert yaml.safe_load(default.strip("`")) == fields[key].default, key


def test_table_has_shared_keys_once() -> None:
    shared = {key for owner, keys in documented_keys().items() if owner not in STRATEGIES.names() for key in keys}
    assert shared == SHARED

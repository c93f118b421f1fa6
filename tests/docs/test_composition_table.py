"""The table of strategies and recoveries in docs/configuration.md against what configs accept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrecon_core.config import RunConfig, StrategyParams, parse
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from fedrecon_core.types import DatasetSpec
from strategies.fedavg import FedAvg
from tests.golden import runs
from tests.helpers.contract_support import restored, run_inprocess
from tests.helpers.federation import toy_settings, toy_spec
from tests.helpers.multilabel import multilabel_spec

discover((*CORE_PACKAGES, "strategies"))

GUIDE = Path(__file__).parents[2] / "docs" / "configuration.md"
HEADING = "### Strategies and recoveries"
CODE, MANY = re.compile(r"`([^`]+)`"), 40


@dataclass(frozen=True)
class Row:
    """A line of the table: a strategy with options of its own, recovery -> cell, and what it needs."""

    name: str
    options: dict[str, Any]
    cells: dict[str, str]
    needs: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value, of the needs that name one."""
        return dict(keys for need in self.needs for keys in _settings(need).items())

    def parse(self, recovery: str, *without: str, **keys: Any) -> RunConfig:
        """The config of the pair with what it needs, but for the keys ``without``; ``keys`` are the strategy's."""
        raw = toy_settings({"name": recovery}, {"name": self.name, **self.options, **keys})
        for key, value in self.settings.items():
            if key not in without:
                _put(raw, key.split("."), value)
        return parse(raw)


def _settings(need: str) -> dict[str, Any]:
    found = [yaml.safe_load(code) for code in CODE.findall(need)]
    return {key: value for part in found if isinstance(part, dict) for key, value in part.items()}


def _put(raw: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        raw = raw.setdefault(part, {})
    raw[path[-1]] = value


def rows_of(readme: str) -> list[Row]:
    """The rows of the first table below the heading."""
    lines = readme.partition(f"{HEADING}\n")[2].lstrip().splitlines()
    table = [line.strip("| ").split(" | ") for line in _table(lines)]
    recoveries = [CODE.fullmatch(cell)[1] for cell in table[0][1:-1]]  # type: ignore[index]
    return [_row(cells, recoveries) for cells in table[2:]]


def _table(lines: list[str]) -> Iterator[str]:
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    for line in lines[start:]:
        if not line.startswith("|"):
            return
        yield line


def _row(cells: list[str], recoveries: list[str]) -> Row:
    name, *options = CODE.findall(cells[0])
    needs = () if cells[-1] == "nothing" else tuple(need.strip() for need in cells[-1].split(";"))
    merged = {key: value for option in options for key, value in yaml.safe_load(option).items()}
    return Row(name, merged, dict(zip(recoveries, cells[1:-1], strict=True)), needs)


# --- what is wrong with it --------------------------------------------------------------------------------------------


def faults(readme: str) -> list[str]:
    """One line for each thing that the table does not say or says wrongly."""
    rows = rows_of(readme)
    plain = [row.name for row in rows if not row.options]
    missing = [f"no row of {name}: add it" for name in STRATEGIES.names() if name not in plain]
    unknown = [f"{name} is no strategy" for name in sorted({row.name for row in rows} - set(STRATEGIES.names()))]
    twice = [f"{name} has two rows" for name in sorted({name for name in plain if plain.count(name) > 1})]
    known = [row for row in rows if row.name in STRATEGIES.names()]
    return [*missing, *unknown, *twice, *(fault for row in known for fault in (*_pairs(row), *_needs(row)))]


def _pairs(row: Row) -> Iterator[str]:
    for recovery in sorted({*RECOVERIES.names(), *row.cells}):
        cell, told = row.cells.get(recovery), refusal(row, recovery)
        if cell is None or recovery not in RECOVERIES.names():
            yield f"{row.name}, {recovery}: no column, or one too many"
        elif cell == "yes":
            if told is not None:
                yield f"{row.name}, {recovery}: refused ({told})"
        elif not cell.startswith("no: ") or not cell.removeprefix("no: ").strip():
            yield f"{row.name}, {recovery}: expected 'yes', or 'no: ' with the reason, found '{cell}'"
        elif told is None:
            yield f"{row.name}, {recovery}: composes"
        elif cell.removeprefix("no: ") not in told:
            yield f"{row.name}, {recovery}: expected a reason from '{told}', found '{cell}'"


def refusal(row: Row, recovery: str, *without: str, **keys: Any) -> str | None:
    """What the config says against the pair, None if nothing."""
    try:
        row.parse(recovery, *without, **keys)
    except ConfigError as error:
        return str(error)
    return None


def _needs(row: Row) -> Iterator[str]:
    said = set(row.needs)
    for key, value in row.settings.items():
        said -= {need for need in row.needs if key in _settings(need)}
        if f"{key}: {value}" not in (told := refusal(row, "mask", key) or "nothing"):
            yield f"{row.name}: expected that it asks for {key}: {value}, found '{told}'"
    due = set(_other_needs(row)) if refusal(row, "mask") is None else said
    yield from (f"{row.name}: needs also: {need}" for need in sorted(due - said))
    yield from (f"{row.name}: does not need: {need}" for need in sorted(said - due))


def _other_needs(row: Row) -> Iterator[str]:
    """What it refuses among the things that some strategy is known to refuse, in the table's words."""
    params: Any = row.parse("mask").strategy
    if not _takes(params, multilabel_spec()):
        yield "one class per sample"
    most = next((n for n in range(1, MANY) if not _takes(params, _wide(n + 1))), None)
    if most is not None:
        yield f"at most {most} modalities"
    if refusal(row, "mask", robust={"rule": "median"}) is not None:
        yield "no `strategy.robust`"


def _takes(params: StrategyParams, spec: DatasetSpec) -> bool:
    try:
        params.check_data(spec)
    except ConfigError:
        return False
    return True


def _wide(modalities: int) -> DatasetSpec:
    spec = toy_spec()
    many = tuple(spec.modalities[0].model_copy(update={"name": f"m{number}"}) for number in range(modalities))
    return spec.model_copy(update={"modalities": many})


# --- the table that stands there --------------------------------------------------------------------------------------

TABLE = GUIDE.read_text(encoding="utf-8")
OPTIONS = [
    (row, recovery) for row in rows_of(TABLE) if row.options for recovery, cell in row.cells.items() if cell == "yes"
]


@pytest.mark.quick
def test_the_table_says_what_the_config_says():
    assert faults(TABLE) == []


@pytest.mark.quick
def test_every_pair_that_composes_has_its_golden_run():
    said = {(recovery, row.name) for row in rows_of(TABLE) for recovery, cell in row.cells.items() if cell == "yes"}
    assert said == set(runs.PAIRS)
    assert [pair for pair in runs.PAIRS if not runs.golden_file(*pair).exists()] == [], runs.RENEW


@pytest.mark.parametrize(("row", "recovery"), OPTIONS, ids=lambda part: getattr(part, "name", part))
def test_a_row_with_options_runs(row, recovery, tmp_path):
    """Plain rows have their golden runs."""
    raw = row.parse(recovery).model_dump(mode="json")
    result = json.loads((run_inprocess(tmp_path, {**raw, "rounds": 1}) / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "completed" and result["bytes_up"] > 0


# --- it would be noticed ----------------------------------------------------------------------------------------------


class PickyParams(StrategyParams):
    """No recovery that fills with means."""

    name: str = "picky"

    def check_run(self, run: Any) -> None:
        if run.recovery.name == "mean":
            raise InvalidValueError("recovery.name", "expected another with picky (a mean tells nothing), found mean")


class Picky(FedAvg):
    """A strategy that refuses a recovery."""

    Params = PickyParams


def line_of(name: str) -> str:
    below = TABLE.partition(HEADING)[2]
    return next(line for line in below.splitlines() if line.startswith(f"| `{name}` |"))


def picky(mean: str, needs: str = "no `strategy.robust`") -> str:
    """The table with a row of ``picky``."""
    cells = [mean if recovery == "mean" else "yes" for recovery in rows_of(TABLE)[0].cells]
    return TABLE.replace(line_of("fedavg"), f"| `picky` | {' | '.join(cells)} | {needs} |\n{line_of('fedavg')}")


@pytest.mark.quick
def test_what_is_missing_or_untrue_is_found():
    fedavg, scaffold = line_of("fedavg"), line_of("scaffold")
    wrong = {
        "no row of fedavg: add it": TABLE.replace(f"{fedavg}\n", ""),
        "fedavg has two rows": TABLE.replace(fedavg, f"{fedavg}\n{fedavg}"),
        "fedsgd is no strategy": TABLE.replace(fedavg, f"{fedavg}\n{fedavg.replace('fedavg', 'fedsgd')}"),
        "fedavg, fedrecon: composes": TABLE.replace(fedavg, fedavg.replace("yes", "no: it has no mean", 1)),
        "fedavg, fedrecon: expected 'yes', or 'no: ' with the reason, found 'no'": TABLE.replace(
            fedavg, fedavg.replace("yes", "no", 1)
        ),
        "fedavg: does not need: one class per sample": TABLE.replace(
            fedavg, fedavg.replace("nothing", "one class per sample")
        ),
        "fedrs: needs also: one class per sample": TABLE.replace(
            line_of("fedrs"), line_of("fedrs").replace("one class per sample", "nothing")
        ),
        "mmfedmc: needs also: at most 10 modalities": TABLE.replace("at most 10 modalities", "at most 11 modalities"),
        "fedavg: expected that it asks for local.task.optimizer: sgd, found 'nothing'": TABLE.replace(
            fedavg, fedavg.replace("nothing", "`local.task.optimizer: sgd`")
        ),
        "fedavg, mean: no column, or one too many": TABLE.replace("| `mean` |", "| `mode` |"),
    }
    for fault, table in wrong.items():
        assert table != TABLE and fault in faults(table), fault
    found = faults(TABLE.replace(scaffold, re.sub(r"`local[^|]*", "nothing ", scaffold)))
    assert any(line.startswith("scaffold, mask: refused (local.task.optimizer: expected sgd") for line in found)


@pytest.mark.quick
def test_a_refused_pair_stands_with_its_reason_and_has_no_golden_run():
    with restored(STRATEGIES):
        STRATEGIES.register("picky")(Picky)
        assert "no row of picky: add it" in faults(TABLE)
        told = "refused (recovery.name: expected another with picky (a mean tells nothing), found mean)"
        assert f"picky, mean: {told}" in faults(picky("yes"))
        assert any(f.startswith("picky, mean: expected a reason from") for f in faults(picky("no: it is slow")))
        assert faults(picky("no: a mean tells nothing")) == []
        assert not runs.composes("mean", "picky") and runs.composes("zero", "picky")

"""Generator of the table of strategies in docs/configuration.md: what each of them needs and refuses.

    python -m tests.docs.composition      # write the table into the page

Needs are found by asking the config, so that a new strategy or recovery needs no edit here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from fedrecon_core.types import DatasetSpec
from tests.helpers.multilabel import multilabel_spec
from tests.helpers.toy import toy_settings, toy_spec

discover((*CORE_PACKAGES, "strategies"))

GUIDE = Path(__file__).parents[2] / "docs" / "configuration.md"
COMMAND = "python -m tests.docs.composition"
BEGIN, END = f"<!-- written by {COMMAND} -->", "<!-- end -->"
VARIANTS: dict[str, list[dict[str, Any]]] = {"mmfedmc": [{"fusion": "local"}]}
"""Strategy -> options with needs of their own, each of which gets a row."""
MANY = 40
"""Modalities with which limits of a strategy are sought."""


def completed(keys: dict[str, Any], recovery: str = "mask") -> tuple[RunConfig, dict[str, Any]]:
    """A small config with the strategy's ``keys`` (``name`` and options), and the settings that it asked for.

    A refusal that ends with the advice ``set KEY: VALUE`` is followed; any other is raised.
    """
    raw, settings = toy_settings({"name": recovery}, keys), dict[str, Any]()
    while True:
        try:
            return parse(raw), settings
        except ConfigError as error:
            found = re.search(r"\bset ([a-z_.]+): (\w+)", str(error))
            if found is None or found[1] in settings:
                raise
            settings[found[1]] = found[2]
            *parents, last = found[1].split(".")
            section = raw
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = found[2]


def needs(keys: dict[str, Any]) -> list[str]:
    """What the strategy needs of config and data, and what it refuses, in the wording of the table."""
    config, settings = completed(keys)
    found = [f"`{key}: {value}`" for key, value in settings.items()]
    if not takes(config, multilabel_spec()):
        found.append("one class per sample")
    most = next((number for number in range(1, MANY) if not takes(config, with_modalities(number + 1))), None)
    if most is not None:
        found.append(f"at most {most} modalities")
    try:
        completed({**keys, "robust": {"rule": "median"}})
    except ConfigError:
        found.append("no `strategy.robust`")
    for recovery in RECOVERIES.names():
        try:
            completed(keys, recovery)
        except ConfigError as error:
            found.append(f"another recovery than `{recovery}` ({error})")
    return found


def takes(config: RunConfig, spec: DatasetSpec) -> bool:
    """Whether the strategy accepts data of ``spec``."""
    try:
        config.strategy.check_data(spec)
    except ConfigError:
        return False
    return True


def with_modalities(count: int) -> DatasetSpec:
    """A data set's spec with ``count`` modalities."""
    spec = toy_spec()
    many = tuple(spec.modalities[0].model_copy(update={"name": f"m{number}"}) for number in range(count))
    return spec.model_copy(update={"modalities": many})


def table() -> str:
    """The table, a row per strategy and variant."""
    lines = ["| strategy | needs |", "|---|---|"]
    for name in STRATEGIES.names():
        for options in ({}, *VARIANTS.get(name, ())):
            title = f"`{name}`" + "".join(f" with `{key}: {value}`" for key, value in options.items())
            lines.append(f"| {title} | {'; '.join(needs({'name': name, **options})) or 'nothing'} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """``page`` with the table between its two marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    GUIDE.write_text(with_table(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")

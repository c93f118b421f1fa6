"""The ``table`` section of a sweep: how its results are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.registry import METRICS, discover
from fedrecon_core.types import StrictModel
from server.runs.setup import PACKAGES
from server.sweep.choices import Choice, Labels, check_choice, exactly, refuse_unknown
from server.sweep.parameters import SEED

LOSS = "loss"
_NO_SEED = f"expected axes to compare, found {SEED}: fields are means over it"
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One may stand without a list."""


class Table(StrictModel):
    """How results are shown: axes as ``rows`` and ``columns``, the ``metrics``, and the level that others are compared
    with (``baseline``). Levels in ``bounds`` are no contestants: they are shown, and not ranked. ``reference`` is a CSV
    of published values, relative to the sweep's file. Without ``rows`` or ``columns`` the axes take these places in
    their order; without ``metrics`` the one that chose the best round is shown."""

    rows: Names = ()
    columns: Names = ()
    metrics: Names = ()
    baseline: Labels = Field(default_factory=dict)
    bounds: Choice = Field(default_factory=dict)
    reference: str | None = Field(default=None, pattern=r"\S")

    def check(self, parameters: Mapping[str, list[str]], key: str = "table") -> None:
        """``InvalidValueError`` below ``key`` for what the sweep with ``axes`` (axis -> labels of its levels) lacks."""
        named = [
            *(("rows", parameter) for parameter in self.rows),
            *(("columns", parameter) for parameter in self.columns),
        ]
        for number, (place, parameter) in enumerate(named):
            refuse_unknown(parameter, parameters, f"{key}.{place}", "axis")
            if parameter == SEED:
                raise InvalidValueError(f"{key}.{place}", _NO_SEED)
            if parameter in [other for _, other in named[:number]]:
                raise InvalidValueError(f"{key}.{place}", f"the axis '{parameter}' stands twice in the table")
        for metric in self.metrics:
            refuse_unknown(metric, metric_names(), f"{key}.metrics", "metric")
        for place, choice in (("baseline", exactly(self.baseline)), ("bounds", self.bounds)):
            check_choice(choice, parameters, f"{key}.{place}")
            if SEED in choice:
                raise InvalidValueError(f"{key}.{place}", _NO_SEED)


def metric_names() -> list[str]:
    """The metrics that are registered, a user's own among them, and the loss, which every score has."""
    discover(PACKAGES)
    return [*METRICS.names(), LOSS]

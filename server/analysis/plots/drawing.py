"""A figure that can be drawn, and its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.analysis.grids import Grid
from server.sweep.choices import slug_of


@dataclass(frozen=True)
class Drawing:
    """``name``: of its files, without their endings. ``draw`` gives a ``matplotlib.figure.Figure``; it is called within
    ``style.applied``."""

    name: str
    draw: Callable[[], Any]


def drawing_name(kind: str, grid: Grid) -> str:
    """``lines-uar-alpha0.1``: kind, metric and section."""
    return "-".join(filter(None, (kind, grid.metric, slug_of(grid.section))))

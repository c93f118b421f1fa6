"""Options that the commands on results of a sweep share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.sweep.paths import Kind, expect

SweepArgument = Annotated[Path, typer.Argument(help="The directory of a sweep, complete or not.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Show a part: axis=level,level (repeatable).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the table section: rows=axis, metrics=uar, baseline.axis=level"),
]


def expect_results(path: Path) -> None:
    """``UsageError`` where something else than a sweep, packed or not, is at ``path``."""
    expect(path, Kind.SWEEP, Kind.PACKED)

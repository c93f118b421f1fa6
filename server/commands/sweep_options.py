"""What the commands that show a sweep's results have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SweepArgument = Annotated[Path, typer.Argument(help="The directory of a sweep, complete or not.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Show a part: axis=level,level (repeatable).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the table section: rows=axis, metrics=uar, baseline.axis=level"),
]

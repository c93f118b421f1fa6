"""``fedrecon table``: the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.errors import UsageError
from server.analysis import latex, long_table, markdown
from server.analysis.grids import Grid
from server.analysis.loaded_results import load_results
from server.analysis.remarks import remarks
from server.analysis.tables import sheets
from server.commands.sweep_options import OnlyOption, SetOption, SweepArgument
from server.runs.directory import write_text

OutOption = Annotated[Path | None, typer.Option(help="Write table.md, table.csv and table.tex into this folder.")]
ShownOption = Annotated[
    str | None, typer.Option(help="Score the test samples that show these alone: acc,gyro, or so many: 1.")
]


def table(
    sweep: SweepArgument,
    settings: SetOption = None,
    only: OnlyOption = None,
    shown: ShownOption = None,
    out: OutOption = None,
) -> None:
    """Show the results of a sweep as Markdown: scores over seeds, differences from a baseline, costs."""
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder for table.md, table.csv and table.tex, found a file")
    material = load_results(sweep, settings or [], only or [], shown)
    found = material.compared()
    told = remarks(material)
    text = markdown.render(sheets(found), told)
    typer.echo(text, nl=False)
    if out is not None:
        _write(out, found, told, text)


def _write(folder: Path, found: Sequence[Grid], told: Sequence[str], text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be made: {error.strerror}") from None
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", long_table.render(found))
    write_text(folder / "table.tex", latex.render(sheets(found), told))
    typer.echo(f"table.md, table.csv and table.tex are in {folder}", err=True)  # beside the table, not in it


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("table")(table)

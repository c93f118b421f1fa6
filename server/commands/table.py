"""``fedrecon table``: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.errors import UsageError
from server.commands.sweep_options import OnlyOption, SetOption, SweepArgument, expect_results
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
    from server.analysis import rendering  # here: pandas takes half a second
    from server.analysis.results import load_results

    expect_results(sweep)
    results = load_results(sweep, settings or [], only or [], shown)
    tables, notes = results.compared_tables(), results.notes()
    sheets = list(rendering.sheets(tables))
    text = rendering.to_markdown(sheets, notes)
    typer.echo(text, nl=False)
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}") from None
    write_text(out / "table.md", text)
    write_text(out / "table.csv", rendering.to_csv(tables))
    write_text(out / "table.tex", rendering.to_latex(sheets, notes))
    typer.echo(f"table.md, table.csv and table.tex are in {out}", err=True)  # not in the table, which is on stdout


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("table")(table)

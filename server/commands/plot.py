"""``fedrecon plot``: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.errors import UsageError
from server.commands.sweep_options import OnlyOption, SetOption, SweepArgument, expect_results

FOLDER = "figures"
KINDS = ("lines", "bars", "differences", "sites")

KindOption = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(KINDS)} (default: lines over numbers, else bars).")
]
OutOption = Annotated[Path | None, typer.Option(help=f"Folder of the pictures (default: {FOLDER} in the sweep's).")]


def plot(
    sweep: SweepArgument,
    kind: KindOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = None,
) -> None:
    """Draw the results of a sweep as PNG and SVG: scores as lines or bars, differences from the baseline, or
    which site holds which classes."""
    from server.analysis.plots import drawings  # here: pandas takes half a second
    from server.analysis.plots.style import applied, save
    from server.analysis.results import load_results

    expect_results(sweep)
    results = load_results(sweep, settings or [], only or [])
    notes = results.notes()  # before anything is drawn: published values that cannot be used are refused
    folder, names = out or sweep / FOLDER, []
    figures = drawings(results, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with applied():
            for drawing in figures:
                names.append(drawing.name)
                again = f"-{names.count(drawing.name)}" if drawing.name in names[:-1] else ""
                for path in save(drawing.draw(), folder / f"{drawing.name}{again}"):
                    typer.echo(path)
    except OSError as error:
        raise UsageError(f"{folder}: figures cannot be written there: {error.strerror}") from None
    for note in notes:
        typer.echo(f"note: {note}", err=True)  # paths alone are on stdout


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("plot")(plot)

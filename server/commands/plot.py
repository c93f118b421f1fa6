"""``fedrecon plot``: the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.errors import UsageError
from server.analysis.loaded_results import load_results
from server.analysis.plots.catalog import KINDS, drawings
from server.analysis.plots.drawing import Drawing
from server.analysis.plots.style import applied, save
from server.analysis.remarks import remarks
from server.commands.sweep_options import OnlyOption, SetOption, SweepArgument

FOLDER = "figures"

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
    material = load_results(sweep, settings or [], only or [])
    told = remarks(material)  # before anything is drawn: published values that cannot be used are refused
    for path in _written(drawings(material, kind), out or sweep / FOLDER):
        typer.echo(path)
    for sentence in told:
        typer.echo(f"note: {sentence}", err=True)  # on stdout are paths alone


def _written(found: Sequence[Drawing], folder: Path) -> Iterator[Path]:
    """Draw each into ``folder``; one whose name is taken has a number as well."""
    taken: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with applied():
            for drawing in found:
                again = f"-{taken.count(drawing.name) + 1}" if drawing.name in taken else ""
                taken.append(drawing.name)
                yield from save(drawing.draw(), folder / f"{drawing.name}{again}")
    except OSError as error:
        raise UsageError(f"{folder}: figures cannot be written there: {error.strerror}") from None


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("plot")(plot)

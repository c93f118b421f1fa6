"""``fedrecon pack`` and ``fedrecon unpack``: results of a sweep in a few files, and its directory again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.errors import UsageError
from server.runs.formatting import plural
from server.sweep.paths import Kind, expect

SweepArgument = Annotated[Path, typer.Argument(help="The directory of a sweep, complete or not.")]
PackedArgument = Annotated[Path, typer.Argument(help="The folder that `fedrecon pack` made.")]
OutArgument = Annotated[Path, typer.Argument(help="A new or empty folder, or a packed sweep, which is replaced.")]
NewArgument = Annotated[Path, typer.Argument(help="A new or empty folder.")]
PredictionsOption = Annotated[
    bool, typer.Option("--predictions/--no-predictions", help="Pack predictions; they hold the labels of test samples.")
]
OfOption = Annotated[
    list[str] | None,
    typer.Option("--predictions-of", help="Pack the predictions of these alone: axis=value,value (repeatable)."),
]


def pack(
    sweep: SweepArgument, out: OutArgument, predictions: PredictionsOption = True, predictions_of: OfOption = None
) -> None:
    """Pack the results of a sweep into a few Parquet files, to publish them or to commit them."""
    from server.analysis import packed  # here: pandas takes half a second

    if predictions_of and not predictions:
        raise UsageError("--predictions-of and --no-predictions exclude each other; give one of them")
    expect(sweep, Kind.SWEEP)
    for path in packed.pack(sweep, out, (predictions_of or []) if predictions else None):
        typer.echo(path)


def unpack(packed_sweep: PackedArgument, out: NewArgument) -> None:
    """Make the directory of a packed sweep again, which `fedrecon sweep` can continue."""
    from server.analysis import packed

    expect(packed_sweep, Kind.PACKED)
    count = packed.unpack(packed_sweep, out)
    typer.echo(f"{plural(count, 'run directory', 'run directories')} in {out}")


def add_to(application: typer.Typer) -> None:
    """Add the commands to the program."""
    application.command("pack")(pack)
    application.command("unpack")(unpack)

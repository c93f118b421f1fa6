"""``fedrecon table``, ``plot``, ``report``, ``pack`` and ``unpack``: commands on the results of runs and sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.errors import UsageError
from server.runs.directory import write_text
from server.runs.formatting import plural
from server.runs.readers import yaml_in
from server.runs.setup import use_recorded_plugins
from server.sweep.paths import Kind, expect, kind_of

FIGURES = "figures"
KINDS = ("lines", "bars", "differences", "sites")

SweepArgument = Annotated[Path, typer.Argument(help="The directory of a sweep, complete or not.")]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="Show only a part: axis=value,value (repeatable).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the table section: rows=axis, metrics=uar, baseline.axis=value"),
]


def table(
    sweep: SweepArgument,
    settings: SetOption = None,
    only: OnlyOption = None,
    shown: Annotated[
        str | None,
        typer.Option(help="Score only the test samples with exactly these modalities: acc,gyro, or this many: 1."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write table.md, table.csv and table.tex into this folder.")] = None,
) -> None:
    """Show the results of a sweep as Markdown: scores over seeds, differences from a baseline, costs."""
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder for table.md, table.csv and table.tex, found a file")
    from server.analysis import rendering  # here: pandas takes half a second
    from server.analysis.results import load_results

    expect(sweep, Kind.SWEEP, Kind.PACKED)
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
    typer.echo(f"table.md, table.csv and table.tex are in {out}", err=True)  # stdout is the table


def plot(
    sweep: SweepArgument,
    kind: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(KINDS)} (default: lines over numbers, else bars).")
    ] = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder of the pictures (default: {FIGURES} in the sweep's).")
    ] = None,
) -> None:
    """Draw the results of a sweep as PNG and SVG: scores as lines or bars, differences from the baseline, or
    which site holds which classes."""
    from server.analysis.plots import drawings  # here: pandas takes half a second
    from server.analysis.plots.style import applied, save
    from server.analysis.results import load_results

    expect(sweep, Kind.SWEEP, Kind.PACKED)
    results = load_results(sweep, settings or [], only or [])
    notes = results.notes()  # before anything is drawn: unusable published values are refused
    folder, names = out or sweep / FIGURES, []
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
        typer.echo(f"note: {note}", err=True)  # stdout has only paths


def report(directory: Annotated[Path, typer.Argument(help="The directory of a run or of a sweep.")]) -> None:
    """Write report.html again from the files of a run or of a sweep."""
    from server.report.run import write_report
    from server.report.sweep import write_sweep_report

    expect(directory, Kind.RUN, Kind.SWEEP, Kind.PACKED)
    use_recorded_plugins([yaml_in(directory / "config.yaml")])
    write = write_sweep_report if kind_of(directory) in (Kind.SWEEP, Kind.PACKED) else write_report
    typer.echo(write(directory))


def pack(
    sweep: SweepArgument,
    out: Annotated[Path, typer.Argument(help="A new or empty folder, or a packed sweep, which is replaced.")],
    predictions: Annotated[
        bool,
        typer.Option("--predictions/--no-predictions", help="Pack predictions, which contain test labels."),
    ] = True,
    predictions_of: Annotated[
        list[str] | None,
        typer.Option("--predictions-of", help="Pack predictions of these trials only: axis=value,value (repeatable)."),
    ] = None,
) -> None:
    """Pack the results of a sweep into a few Parquet files, to publish them or to commit them."""
    from server.analysis import packed  # here: pandas takes half a second

    if predictions_of and not predictions:
        raise UsageError("--predictions-of and --no-predictions exclude each other; give one of them")
    expect(sweep, Kind.SWEEP)
    for path in packed.pack(sweep, out, (predictions_of or []) if predictions else None):
        typer.echo(path)


def unpack(
    packed_sweep: Annotated[Path, typer.Argument(help="The folder that `fedrecon pack` made.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
) -> None:
    """Make the directory of a packed sweep again, which `fedrecon sweep` can continue."""
    from server.analysis import packed

    expect(packed_sweep, Kind.PACKED)
    count = packed.unpack(packed_sweep, out)
    typer.echo(f"{plural(count, 'run directory', 'run directories')} in {out}")


def add_to(application: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (table, plot, report, pack, unpack):
        application.command(command.__name__)(command)

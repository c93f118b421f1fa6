"""``fedrecon report``: write a report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.runs.readers import yaml_in
from server.runs.setup import use_recorded_plugins
from server.sweep.paths import Kind, expect, kind_of


def report(directory: Annotated[Path, typer.Argument(help="The directory of a run or of a sweep.")]) -> None:
    """Write report.html again from the files of a run or of a sweep."""
    from server.report.run.report import write_report
    from server.report.sweep.report import write_sweep_report

    expect(directory, Kind.RUN, Kind.SWEEP, Kind.PACKED)
    use_recorded_plugins([yaml_in(directory / "config.yaml")])
    write = write_sweep_report if kind_of(directory) in (Kind.SWEEP, Kind.PACKED) else write_report
    typer.echo(write(directory))


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("report")(report)

"""``fedrecon table``: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from fedrecon_core.errors import DataError, UsageError
from fedrecon_core.faults import MisfitError, explain
from fedrecon_core.registry import discover
from fedrecon_core.settings import override
from server.comparison import latex, long_table, markdown
from server.comparison.contest import grids
from server.comparison.grids import Grid
from server.comparison.layout import laid_out
from server.comparison.published import Published, read_published
from server.comparison.results import Result, read_results
from server.comparison.sheets import sheets
from server.prepare import PACKAGES
from server.report.formats import listing, plural
from server.report.reader import read_run
from server.run_directory import write_text
from server.sweep.record import State, SweepRecord, read_sweep
from server.sweep.table import Table

SweepArgument = Annotated[Path, typer.Argument(help="The directory of a sweep, complete or not.")]
OutOption = Annotated[Path | None, typer.Option(help="Write table.md, table.csv and table.tex into this folder.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the table: rows=[axis], metrics=[uar], ...")
]


def table(sweep: SweepArgument, settings: SetOption = None, out: OutOption = None) -> None:
    """Show the results of a sweep as Markdown: scores over seeds, differences from a baseline, costs."""
    discover(PACKAGES)
    record = read_sweep(sweep)
    results = _complete(record, sweep)
    asked = _table(record, settings or [])
    found = _grids(record, asked, results, _published(asked, record, sweep))
    text = markdown.render(sheets(found), _left_out(record))
    typer.echo(text, nl=False)
    if out is not None:
        _write(out, found, text)


def _complete(record: SweepRecord, directory: Path) -> list[Result]:
    results = read_results(record)
    if not results:
        told = f"none of its {plural(len(record.cells), 'cell')} is complete; `fedrecon sweep` goes on with them"
        raise DataError(f"{directory}: nothing to show: {told}")
    return results


def _table(record: SweepRecord, settings: list[str]) -> Table:
    """The table section of the sweep with what the command changes of it, checked against the axes."""
    raw = override(dict(record.table), settings)
    try:
        found = Table.model_validate(raw)
        found.check(record.axes)
    except ValidationError as error:
        raise UsageError(f"table: {explain(error, raw, Table)}") from None
    except MisfitError as error:
        raise UsageError(f"{error.key}: {error}") from None
    return found


def _published(asked: Table, record: SweepRecord, directory: Path) -> list[Published]:
    """A path on the command line begins where its caller is, the sweep's own in its directory."""
    if asked.reference is None:
        return []
    home = directory if asked.reference == record.table.get("reference") else Path()
    return read_published(home / asked.reference, record.axes)


def _grids(record: SweepRecord, asked: Table, results: list[Result], published: list[Published]) -> list[Grid]:
    layout = laid_out(asked, record.axes, (_chosen_by(results[0]),))
    found = grids(layout, results, published)
    if not found:
        known = ", ".join(sorted({name for result in results for name in result.scores}))
        raise UsageError(f"table.metrics: expected scores that complete cells have ({known}), found none of them")
    return found


def _chosen_by(result: Result) -> str:
    """The metric that chose the best round of a run: without other word its score is what the run is about."""
    return str(read_run(result.directory).setting("evaluate.select"))


def _left_out(record: SweepRecord) -> list[str]:
    """A sentence on the cells that are not complete."""
    others = [cell for cell in record.cells if cell.status is not State.COMPLETE]
    if not others:
        return []
    named = listing([f"{', '.join(f'{k} {v}' for k, v in cell.labels.items())} ({cell.status})" for cell in others])
    return [f"{len(others)} of {plural(len(record.cells), 'cell')} are not complete and left out: {named}."]


def _write(folder: Path, found: list[Grid], text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be made: {error.strerror}") from None
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", long_table.render(found))
    write_text(folder / "table.tex", latex.render(sheets(found)))


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("table")(table)

"""``fedrecon data describe``, ``check``, ``seal`` and ``split``: commands on site folders and the data of a config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.datasets.sites import site_folders
from fedrecon_core.errors import DataError, UsageError, one_line
from fedrecon_core.files import reason
from fedrecon_core.preparation.simulated_sites import write_sites
from fedrecon_core.types import SPLITS
from server.report.dataset.picture import save_picture
from server.report.dataset.summary import config_view, folder_view
from server.report.dataset.tables import show
from server.runs.setup import discover_all, load_config

NOT_STAMPED = "; nothing was stamped where one was"

Folder = Annotated[Path, typer.Argument(help="A site folder, or a folder of site folders.")]


def describe(
    path: Annotated[Path, typer.Argument(help="A site folder, a folder of site folders, or a config.")],
    png: Annotated[Path | None, typer.Option(help="Draw it into this file too.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key of the config.")] = None,
) -> None:
    """Show counts by class, site and modality, what is missing, and lengths."""
    if not path.exists():
        raise DataError(f"{path}: expected a site folder, a folder of site folders or a config, found nothing")
    if settings and path.is_dir():
        raise UsageError(f"--set overrides keys of a config, and {path} is a folder; leave --set out")
    discover_all()
    view = folder_view(path) if path.is_dir() else config_view(load_config(path, settings or []))
    show(view, Console())
    if png is not None:
        try:
            save_picture(view, png)
        except OSError as error:
            raise DataError(f"--png {png} cannot be written: {reason(error)}") from None
        typer.echo(png)


def split(
    config: Annotated[Path, typer.Argument(help="The config of a simulation.")],
    out: Annotated[Path, typer.Option(help="A new folder for the site folders and federation.yaml.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key: dotted.key=value.")] = None,
) -> None:
    """Write the simulated sites of a config as site folders, with a config to run them."""
    for folder in write_sites(load_config(config, settings or []), out.resolve()):
        typer.echo(folder)
    typer.echo(f"run them with: fedrecon run {out / 'federation.yaml'}")


def check(folder: Folder) -> None:
    """Read every file of a site folder, explain every fault, and leave a stamp where there is none."""
    discover_all()
    folders = _folders(folder)
    raise_faults([fault for path in folders for fault in check_folder(path)], NOT_STAMPED)
    show_folders(folders)


def seal(folder: Folder) -> None:
    """Write size and SHA-256 of the files as they are now into dataset.yaml, then check."""
    discover_all()
    folders = _folders(folder)
    raise_faults([fault for path in folders for fault in seal_folder(path)], NOT_STAMPED)
    show_folders(folders)


def _folders(folder: Path) -> list[Path]:
    return [folder] if os.path.lexists(folder / DESCRIPTION) else site_folders(folder)


def raise_faults(faults: list[str], hint: str) -> None:
    """Print ``faults``, one per line, and if there are any raise a ``DataError`` with their number and ``hint``."""
    for fault in faults:
        typer.echo(one_line(fault), err=True)
    if faults:
        raise DataError(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} found{hint}")


def show_folders(folders: list[Path]) -> None:
    """A table of checked folders: samples per split and modality."""
    table = Table("site folder", *SPLITS, "samples that have each modality")
    for folder in folders:
        found = open_folder(folder)
        counts = [str(len(found.members(index))) for index in range(len(SPLITS))]
        having = {name: int((found.rows[name] >= 0).sum()) for name in found.spec.names}
        shown = ", ".join(f"{name} {count}" for name, count in having.items() if count) or "none"
        table.add_row(folder.resolve().name, *counts, shown)
    Console().print(table)

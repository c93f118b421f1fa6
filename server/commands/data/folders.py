"""``fedrecon data check``, ``seal`` and ``split``: site folders checked, sealed, and made from a simulation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.datasets.sites import site_folders
from fedrecon_core.errors import DataError, one_line
from fedrecon_core.types import SPLITS
from server.commands.data.site_split import write_sites
from server.runs.setup import load_config

NOT_STAMPED = "; nothing was stamped where one was"

Folder = Annotated[Path, typer.Argument(help="A site folder, or a folder of site folders.")]


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
    folders = _folders(folder)
    refuse([fault for path in folders for fault in check_folder(path)], NOT_STAMPED)
    show_folders(folders)


def seal(folder: Folder) -> None:
    """Write size and SHA-256 of the files as they are now into dataset.yaml, then check."""
    folders = _folders(folder)
    refuse([fault for path in folders for fault in seal_folder(path)], NOT_STAMPED)
    show_folders(folders)


def _folders(folder: Path) -> list[Path]:
    return [folder] if os.path.lexists(folder / DESCRIPTION) else site_folders(folder)


def refuse(faults: list[str], told: str) -> None:
    """Show ``faults``, a line each; where there are any, a ``DataError`` that counts them and goes on with ``told``."""
    for fault in faults:
        typer.echo(one_line(fault), err=True)
    if faults:
        raise DataError(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} found{told}")


def show_folders(folders: list[Path]) -> None:
    """A table of checked folders: samples per split and modality."""
    table = Table("site folder", *SPLITS, "samples that have each modality")
    for folder in folders:
        found = open_folder(folder)
        counts = [str(len(found.members(index))) for index in range(len(SPLITS))]
        table.add_row(folder.resolve().name, *counts, _modalities(found))
    Console().print(table)


def _modalities(found: Dataset) -> str:
    counts = {name: int((found.rows[name] >= 0).sum()) for name in found.spec.names}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"

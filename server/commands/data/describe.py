"""``fedrecon data describe``: what folders hold, or what a run will see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrecon_core.errors import DataError, UsageError
from fedrecon_core.files import reason
from fedrecon_core.registry import discover
from server.commands.data.description import view_of
from server.commands.data.description_picture import save_picture
from server.commands.data.description_tables import show
from server.runs.setup import PACKAGES, load_config


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
    discover(PACKAGES)
    view = view_of(path, lambda config: load_config(config, settings or []))
    show(view, Console())
    if png is not None:
        try:
            save_picture(view, png)
        except OSError as error:
            raise DataError(f"--png {png} cannot be written: {reason(error)}") from None
        typer.echo(png)

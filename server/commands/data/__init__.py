"""``fedrecon data``: commands for data sets and site folders."""

from __future__ import annotations

import typer

from server.commands.data import folders, listing, prepare

data = typer.Typer(name="data", help="Data sets and site folders: prepare, look at, check.", no_args_is_help=True)

data.command("list")(listing.list_datasets)
data.command("prepare")(prepare.prepare)
data.command("import")(prepare.import_table)
data.command("describe")(folders.describe)
data.command("check")(folders.check)
data.command("seal")(folders.seal)
data.command("split")(folders.split)

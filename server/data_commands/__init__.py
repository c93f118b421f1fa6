"""``fedrecon data``: data sets prepared or imported, site folders described, checked and sealed; a file per command."""

from __future__ import annotations

from collections.abc import Callable

import typer

from server.data_commands.describing import describe
from server.data_commands.folders import check, seal, split
from server.data_commands.importing import import_
from server.data_commands.listing import list_
from server.data_commands.preparing import prepare

data = typer.Typer(name="data", help="Data sets and site folders: prepare, look at, check.", no_args_is_help=True)

COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_,
    "prepare": prepare,
    "import": import_,
    "describe": describe,
    "check": check,
    "seal": seal,
    "split": split,
}
for name, command in COMMANDS.items():
    data.command(name)(command)

"""``fedrecon data``: data sets prepared or imported, site folders described, checked and sealed; a file per command."""

from __future__ import annotations

from collections.abc import Callable

import typer

from server.commands.data.describe import describe
from server.commands.data.folders import check, seal, split
from server.commands.data.import_ import import_
from server.commands.data.list_ import list_
from server.commands.data.prepare import prepare

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

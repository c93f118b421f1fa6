"""``fedrecon data list``: the data sets that a config may name."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.plugins import plugin_of
from fedrecon_core.registry import DATASETS
from server.runs.setup import discover_all

NOTHING, FILES, PREPARATION = "nothing", "files", "prepare"
UNKNOWN = "by its files"


@dataclass(frozen=True)
class Entry:
    """A row of the list: the data set in one line, what it needs, and its modalities and target as far as known."""

    name: str
    about: str
    needs: str
    modalities: str
    target: str


def entry_of(name: str, cls: Any) -> Entry:
    """Describe a data set without opening its files; a built-in one is built. Its text is the first sentence of its
    module, which begins with the data set's name, or else of its class."""
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    text = module.partition(": ")[2] if module.startswith("Data set `") else inspect.getdoc(cls) or ""
    first = re.split(r"(?<!al)\.\s|\n\n", text)[0]  # "et al." ends no sentence
    about = " ".join(first.replace("`", "").split()).removesuffix(".")
    if plugin := plugin_of(cls):
        about += f" (plugins: [{plugin}])"
    if issubclass(cls, PreparedLoader):
        needs = FILES if cls.opens_files else PREPARATION
        return Entry(
            name, about, needs, ", ".join(cls.modalities) or UNKNOWN, UNKNOWN if cls.opens_files else cls.target
        )
    try:
        spec = cls().load(cls.Params(name=name), None, 0).spec
    except Exception:  # it needs files; which error says so depends on the data set
        return Entry(name, about, FILES, UNKNOWN, UNKNOWN)
    return Entry(name, about, NOTHING, ", ".join(spec.names), spec.target)


def list_datasets() -> None:
    """Show the data sets: what each is, what it needs, its modalities and its target."""
    discover_all()
    table = Table("name", "what it is", "needs", "modalities", "target", box=box.SIMPLE_HEAD)
    for one in (entry_of(name, cls) for name, cls in DATASETS.items()):
        table.add_row(one.name, escape(one.about), one.needs, one.modalities, one.target)
    console = Console()
    console.print(table)
    for line in (
        f"{NOTHING}: it is built in",
        f"{FILES}: a config opens them as they are (data.root)",
        f"{PREPARATION}: made once from the official files (`fedrecon data prepare NAME --layout` shows which)",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)

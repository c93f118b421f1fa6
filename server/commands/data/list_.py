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
from fedrecon_core.registry import DATASETS, discover
from server.runs.setup import PACKAGES

NOTHING, FILES, PREPARATION = "nothing", "files", "prepare"
UNKNOWN = "by its files"


@dataclass(frozen=True)
class Entry:
    """A data set: one line on what it is, what it needs, and its modalities and target as far as they are known."""

    name: str
    about: str
    needs: str
    modalities: str
    target: str


def entries() -> list[Entry]:
    """All registered data sets by name."""
    discover(PACKAGES)
    return [entry_of(name, cls) for name, cls in DATASETS.items()]


def entry_of(name: str, cls: Any) -> Entry:
    """What there is to say about a data set before it is opened; one that is built in is built for it."""
    about = _about(cls)
    if issubclass(cls, PreparedLoader):
        needs = FILES if cls.opens_files else PREPARATION
        return Entry(
            name, about, needs, ", ".join(cls.modalities) or UNKNOWN, UNKNOWN if cls.opens_files else cls.target
        )
    try:
        spec = cls().load(cls.Params(name=name), None, 0).spec
    except Exception:  # it wants files, and says so in its own way
        return Entry(name, about, FILES, UNKNOWN, UNKNOWN)
    return Entry(name, about, NOTHING, ", ".join(spec.names), spec.target)


def _about(cls: Any) -> str:
    """The first sentence of the module, which begins with the data set's name, else of the class."""
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    text = module.partition(": ")[2] if module.startswith("Data set `") else inspect.getdoc(cls) or ""
    # "et al." ends no sentence
    first = re.split(r"(?<!al)\.\s|\n\n", text)[0]
    return " ".join(first.replace("`", "").split()).removesuffix(".")


def list_() -> None:
    """Show the data sets: what each is, what it needs, its modalities and its target."""
    table = Table("name", "what it is", "needs", "modalities", "target", box=box.SIMPLE_HEAD)
    for one in entries():
        table.add_row(one.name, escape(one.about), one.needs, one.modalities, one.target)
    console = Console()
    console.print(table)
    for line in (
        f"{NOTHING}: it is built in",
        f"{FILES}: a config opens them as they are (data.root)",
        f"{PREPARATION}: made once from the official files (`fedrecon data prepare NAME --layout` shows which)",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)

"""``fedrecon data prepare``: a data set made once from its official files."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedrecon_core.config.errors import explain
from fedrecon_core.config.loading import override
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import ConfigError, DataError, UsageError
from fedrecon_core.preparation.expected_files import CHECKSUMS, ExpectedFile, file_faults
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.preparation.writer import refuse_lacking
from fedrecon_core.registry import DATASETS, FEATURE_PACKAGES, discover
from server.commands.data.folders import refuse
from server.commands.data.list_ import NOTHING, entry_of
from server.commands.data.writing import cache_of, resumable, tell_run, write
from server.runs.setup import PACKAGES


def prepare(
    name: Annotated[str, typer.Argument(help="A data set that `fedrecon data list` shows.")],
    raw: Annotated[Path | None, typer.Option(help="The folder with the official files.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder, or one to go on with.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A key of the preparation: key=value.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Features of files seen before (default: the user's).")] = None,
    layout: Annotated[bool, typer.Option("--layout", help="Show the files and keys, and do nothing.")] = False,
) -> None:
    """Make a data set's folder from its official files; run again after an interruption, it goes on."""
    loader = loader_of(name)
    keys = keys_of(loader, settings or [])
    if layout:
        with TemporaryDirectory() as empty:
            _show_layout(loader, keys, raw or Path(empty))
        return
    if raw is None or out is None:
        lacking = "--raw DIR" if raw is None else "--out DIR"
        raise UsageError(f"{lacking} is needed to prepare '{name}'; --layout shows which files belong into --raw")
    with resumable():
        told = f", nothing was written; `fedrecon data prepare {name} --layout` shows what is expected"
        refuse(file_faults(raw, loader.expected_files(keys, raw)), told)
        raw_data = loader.read_raw(keys, raw, cache_of(cache))
        refuse_lacking(raw_data)
        _tell_found(raw_data)
        write({".": raw_data}, out)
    tell_run(out, name, raw_data.spec)


def _tell_found(raw_data: RawDataset) -> None:
    """Before the long work: which layout it is, and what is known to be wrong with it."""
    lines = [f"found {raw_data.found}"] if raw_data.found else []
    for line in (*lines, *(f"known fault: {fault}" for fault in raw_data.faults)):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


def loader_of(name: str) -> type[PreparedLoader]:
    """The data set's class; ``UsageError`` where the data set needs no preparation."""
    discover((*PACKAGES, *FEATURE_PACKAGES))
    cls: Any = DATASETS.get(name)
    if issubclass(cls, PreparedLoader):
        return cls
    built_in = entry_of(name, cls).needs == NOTHING
    how = f"it is built in, data.name: {name} is all" if built_in else f"data.name: {name} opens data.root as it is"
    raise UsageError(f"data set '{name}' needs no preparation: {how}")


def keys_of(loader: type[PreparedLoader], settings: list[str]) -> Any:
    """The keys of the preparation; ``ConfigError`` with the nearest known key for an unknown one."""
    raw = override({}, settings)
    for key, value in raw.items():
        if isinstance(value, dict) and "name" not in value and (chosen := _chosen(loader, key)):
            raw[key] = {"name": chosen, **value}
    try:
        return loader.Raw.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"--set {explain(error, raw, loader.Raw)}") from None


def _chosen(loader: type[PreparedLoader], key: str) -> str | None:
    """The name that a key has by default, of which only other keys are set; None for a key that chooses nothing."""
    field = loader.Raw.model_fields.get(key)
    default = field.get_default(call_default_factory=True) if field else None
    return default if isinstance(default, str) else getattr(default, "name", None)


def _show_layout(loader: type[PreparedLoader], keys: Any, raw: Path) -> None:
    console = Console()
    for chosen, files in _layouts(loader, keys, raw).items():
        console.print(f"Files below --raw for '{loader.name}'{chosen}:", highlight=False, markup=False)
        for one in files:  # in whole lines, so that paths and commands can be copied
            console.print(f"  {one.path}", style="bold", highlight=False, markup=False, soft_wrap=True)
            console.print(f"      {one.what}{_more(one)}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"A list {CHECKSUMS} beside them (of sha256sum) is held to.\n", highlight=False)
    if not loader.Raw.model_fields:
        return
    table = Table("--set key", "default", "one of", box=box.SIMPLE_HEAD)
    for key, field in loader.Raw.model_fields.items():
        default = "required" if field.is_required() else _plain(field.get_default(call_default_factory=True))
        table.add_row(key, escape(default), ", ".join(map(str, _choices(loader, key))))
    console.print(table)
    about = (inspect.getdoc(loader.Raw) or "").replace("`", "")
    console.print(" ".join(about.split()), highlight=False, markup=False)


def _layouts(loader: type[PreparedLoader], keys: Any, raw: Path) -> dict[str, Sequence[ExpectedFile]]:
    """What is expected under ``keys`` and, where a key of few values decides it, under each of them."""
    found: dict[str, Sequence[ExpectedFile]] = {}
    choices = {
        f" with --set {key}={value}": {key: value} for key in loader.Raw.model_fields for value in _choices(loader, key)
    }
    for told, chosen in {"": {}, **choices}.items():
        with suppress(DataError):  # a layout that is told by what is there is told by nothing yet
            files = loader.expected_files(keys.model_copy(update=chosen), raw)
            if [*files] not in [[*known] for known in found.values()]:
                found[told] = files
    return found


def _choices(loader: type[PreparedLoader], key: str) -> tuple[Any, ...]:
    annotation = loader.Raw.model_fields[key].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _more(one: ExpectedFile) -> str:
    return "".join([f" (at least {one.least} files)" * (one.least > 1), f", MD5 {one.md5}" * (one.md5 is not None)])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(getattr(value, "name", value))

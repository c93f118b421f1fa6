"""``fedrecon data prepare`` and ``import``: make site folders from official files, or from a table."""

from __future__ import annotations

import inspect
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
from fedrecon_core.data.dataset import DatasetLoader
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import ConfigError, DataError, UsageError
from fedrecon_core.plugins import plugin_of
from fedrecon_core.preparation.expected_files import CHECKSUMS, ExpectedFile, file_faults
from fedrecon_core.preparation.importing.mapping import read_mapping
from fedrecon_core.preparation.importing.sites import read_sites
from fedrecon_core.preparation.writer import missing_modalities, refuse_missing_modalities
from fedrecon_core.registry import DATASETS
from server.commands.data.folders import raise_faults
from server.commands.data.listing import NOTHING, entry_of
from server.commands.data.progress import cache_of, print_run_command, resumable, write
from server.runs.setup import discover_all


def prepare(
    name: Annotated[str, typer.Argument(help="A data set that `fedrecon data list` shows.")],
    raw: Annotated[Path | None, typer.Option(help="The folder with the official files.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder, or one to continue.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A key of the preparation: key=value.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Features of files seen before (default: the user's).")] = None,
    layout: Annotated[bool, typer.Option("--layout", help="Show the files and keys, and do nothing.")] = False,
) -> None:
    """Make a data set's folder from its official files; after an interruption the same command continues."""
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
        hint = f", nothing was written; `fedrecon data prepare {name} --layout` shows what is expected"
        raise_faults(file_faults(raw, loader.expected_files(keys, raw)), hint)
        raw_data = loader.read_raw(keys, raw, cache_of(cache))
        refuse_missing_modalities(raw_data)
        lines = [f"found {raw_data.found}"] if raw_data.found else []
        for line in (*lines, *(f"known fault: {fault}" for fault in raw_data.faults)):
            Console().print(line, highlight=False, markup=False, soft_wrap=True)
        write({".": raw_data}, out)
    plugin = plugin_of(loader)
    print_run_command(out, name, raw_data.spec, *([f"plugins=[{plugin}]"] if plugin else []))


def import_table(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file with a row per sample.")],
    mapping: Annotated[Path, typer.Option("--map", help="A YAML file that says what the columns mean.")],
    out: Annotated[Path, typer.Option(help="A new folder, or one to continue.")],
    cache: Annotated[Path | None, typer.Option(help="Features of files seen before (default: the user's).")] = None,
) -> None:
    """Make a site folder, or one per site, from a table; after an interruption the same command continues."""
    discover_all()
    with resumable():
        sites = read_sites(file, read_mapping(mapping), cache_of(cache))
        write(sites, out)
    if names := missing_modalities(sites.values()):
        hint = "the folder can be a site of a deployment in which another one has it, but no run of its own"
        typer.echo(f"no sample has {', '.join(names)}: {hint}")
        return
    spec = next(iter(sites.values())).spec
    if list(sites) == ["."]:
        print_run_command(out, "folder", spec, "data.partition=iid")
    else:
        print_run_command(out, "sites", spec, "data.partition=iid", f"sites.count={len(sites)}")


def loader_of(name: str) -> type[PreparedLoader]:
    """The class of a data set; ``UsageError`` if the data set needs no preparation."""
    discover_all()
    cls: type[DatasetLoader] = DATASETS.get(name)
    if issubclass(cls, PreparedLoader):
        return cls
    built_in = entry_of(name, cls).needs == NOTHING
    how = f"it is built in; set data.name: {name}" if built_in else f"data.name: {name} opens data.root as it is"
    raise UsageError(f"data set '{name}' needs no preparation: {how}")


def keys_of(loader: type[PreparedLoader], settings: list[str]) -> Any:
    """The keys of the preparation; ``ConfigError`` with the nearest known key for an unknown one."""
    raw = override({}, settings)
    for key, value in raw.items():
        field = loader.Raw.model_fields.get(key)
        if field and isinstance(value, dict) and "name" not in value:  # only other keys of the default choice are set
            default = field.get_default(call_default_factory=True)
            chosen = default if isinstance(default, str) else getattr(default, "name", None)
            raw[key] = {"name": chosen, **value} if chosen else value
    try:
        return loader.Raw.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"--set {explain(error, raw, loader.Raw)}") from None


def _show_layout(loader: type[PreparedLoader], keys: Any, raw: Path) -> None:
    """Print the expected files under ``keys`` and, if a key with few values changes them, under each of its values;
    then the keys."""
    console = Console()
    choices = {
        f" with --set {key}={value}": {key: value} for key in loader.Raw.model_fields for value in _choices(loader, key)
    }
    shown: list[list[ExpectedFile]] = []
    for chosen, changes in {"": {}, **choices}.items():
        with suppress(DataError):  # a layout that depends on the files that are there is not known without them
            files = [*loader.expected_files(keys.model_copy(update=changes), raw)]
            if files in shown:
                continue
            shown.append(files)
            console.print(f"Files below --raw for '{loader.name}'{chosen}:", highlight=False, markup=False)
            for one in files:  # in whole lines, so that paths and commands can be copied
                least = f" (at least {one.least} files)" if one.least > 1 else ""
                checksum = f", MD5 {one.md5}" if one.md5 is not None else ""
                console.print(f"  {one.path}", style="bold", highlight=False, markup=False, soft_wrap=True)
                console.print(f"      {one.what}{least}{checksum}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"A list {CHECKSUMS} next to them (of sha256sum) is checked.\n", highlight=False)
    if not loader.Raw.model_fields:
        return
    table = Table("--set key", "default", "one of", box=box.SIMPLE_HEAD)
    for key, field in loader.Raw.model_fields.items():
        value = "required" if field.is_required() else field.get_default(call_default_factory=True)
        default = ", ".join(map(str, value)) if isinstance(value, tuple) else str(getattr(value, "name", value))
        table.add_row(key, escape(default), ", ".join(map(str, _choices(loader, key))))
    console.print(table)
    about = (inspect.getdoc(loader.Raw) or "").replace("`", "")
    console.print(" ".join(about.split()), highlight=False, markup=False)


def _choices(loader: type[PreparedLoader], key: str) -> tuple[Any, ...]:
    annotation = loader.Raw.model_fields[key].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()

"""``fedrecon data``: commands for data sets and site folders."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fedrecon_core.config.errors import explain
from fedrecon_core.config.loading import override
from fedrecon_core.data.dataset import DatasetLoader
from fedrecon_core.data.site_folder.check import check_folder, seal_folder
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.datasets.sites import site_folders
from fedrecon_core.errors import ConfigError, DataError, FedReconError, UsageError, one_line
from fedrecon_core.files import reason, user_path
from fedrecon_core.plugins import plugin_of
from fedrecon_core.preparation.expected_files import CHECKSUMS, ExpectedFile, file_faults
from fedrecon_core.preparation.features.cache import default_cache
from fedrecon_core.preparation.importing.mapping import read_mapping
from fedrecon_core.preparation.importing.sites import read_sites
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.preparation.writer import missing_modalities, refuse_missing_modalities, write_site_folders
from fedrecon_core.registry import DATASETS
from fedrecon_core.types import SPLITS, DatasetSpec
from server.report.dataset import print_tables, save_picture, summarize_config, summarize_folder
from server.runs.setup import discover_data, load_config

data = typer.Typer(name="data", help="Data sets and site folders: prepare, look at, check.", no_args_is_help=True)

NOTHING, FILES, PREPARATION = "nothing", "files", "prepare"
UNKNOWN = "by its files"
NOT_STAMPED = "; folders with faults were not stamped"
SECONDS_BETWEEN_LINES = 30.0
"""Interval of the progress lines of one modality in a log."""

Folder = Annotated[Path, typer.Argument(help="A site folder, or a folder of site folders.")]
CacheOption = Annotated[Path | None, typer.Option(help="Folder of cached features (default: the user's).")]


class InterruptedPreparationError(FedReconError):
    """Ctrl-C while a data set was being prepared or imported."""

    exit_code = 130


# --- data list ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A row of the list: a description in one line, what the data set needs, its modalities and its target."""

    name: str
    about: str
    needs: str
    modalities: str
    target: str


def entry_of(name: str, cls: Any) -> Entry:
    """Describe a data set without opening its files; a built-in one is built.

    Its text is the first sentence of the docstring of its module if that begins with "Data set", or else of its class.
    """
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


@data.command("list")
def list_datasets() -> None:
    """Show the data sets: what each is, what it needs, its modalities and its target."""
    discover_data()
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


# --- data prepare and data import -----------------------------------------------------------------------------------


@data.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="A data set that `fedrecon data list` shows.")],
    raw: Annotated[Path | None, typer.Option(help="The folder with the official files.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder, or one to continue.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A key of the preparation: key=value.")] = None,
    cache: CacheOption = None,
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
        raise UsageError(f"{lacking} is needed to prepare '{name}'; --layout shows which files belong in --raw")
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


@data.command("import")
def import_table(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file with a row per sample.")],
    mapping: Annotated[Path, typer.Option("--map", help="A YAML file that describes the columns.")],
    out: Annotated[Path, typer.Option(help="A new folder, or one to continue.")],
    cache: CacheOption = None,
) -> None:
    """Make a site folder, or one per site, from a table; after an interruption the same command continues."""
    discover_data()
    with resumable():
        sites = read_sites(file, read_mapping(mapping), cache_of(cache))
        write(sites, out)
    if names := missing_modalities(sites.values()):
        hint = "the folder can be a site of a deployment if another site has such samples, but it cannot be run alone"
        typer.echo(f"no sample has {', '.join(names)}: {hint}")
        return
    spec = next(iter(sites.values())).spec
    if list(sites) == ["."]:
        print_run_command(out, "folder", spec, "data.partition=iid")
    else:
        print_run_command(out, "sites", spec, "data.partition=iid", f"sites.count={len(sites)}")


def loader_of(name: str) -> type[PreparedLoader]:
    """Return the class of a data set; ``UsageError`` if the data set needs no preparation."""
    discover_data()
    cls: type[DatasetLoader] = DATASETS.get(name)
    if issubclass(cls, PreparedLoader):
        return cls
    built_in = entry_of(name, cls).needs == NOTHING
    how = f"it is built in; set data.name: {name}" if built_in else f"data.name: {name} opens data.root as it is"
    raise UsageError(f"data set '{name}' needs no preparation: {how}")


def keys_of(loader: type[PreparedLoader], settings: list[str]) -> Any:
    """Return the keys of the preparation; ``ConfigError``, with the nearest known key, if one is unknown."""
    raw = override({}, settings)
    for key, value in raw.items():
        field = loader.Raw.model_fields.get(key)
        if field and isinstance(value, dict) and "name" not in value:  # keys of the default choice
            default = field.get_default(call_default_factory=True)
            chosen = default if isinstance(default, str) else getattr(default, "name", None)
            raw[key] = {"name": chosen, **value} if chosen else value
    try:
        return loader.Raw.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"--set {explain(error, raw, loader.Raw)}") from None


def _show_layout(loader: type[PreparedLoader], keys: Any, raw: Path) -> None:
    """Print the expected files under ``keys``, those under each value of a key that changes them, and the keys."""
    console = Console()
    choices = {
        f" with --set {key}={value}": {key: value} for key in loader.Raw.model_fields for value in _choices(loader, key)
    }
    shown: list[list[ExpectedFile]] = []
    for chosen, changes in {"": {}, **choices}.items():
        with suppress(DataError):  # the layout may depend on files that do not exist
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


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (modality, done, total) that shows progress: bars in a terminal, few lines in a log."""
    if not console.is_terminal:
        printed: dict[str, float] = {}

        def print_line(modality: str, done: int, total: int) -> None:
            now = time.monotonic()
            if done >= total or now - printed.setdefault(modality, now) >= SECONDS_BETWEEN_LINES:
                printed[modality] = now
                console.print(f"{modality}: {done} of {total}", highlight=False)

        yield print_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def update_bar(modality: str, done: int, total: int) -> None:
            if modality not in tasks:
                tasks[modality] = bars.add_task(modality, total=total)
            bars.update(tasks[modality], completed=done)

        yield update_bar


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C into an error that names the command to continue with."""
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["fedrecon", *sys.argv[1:]])
        raise InterruptedPreparationError(f"interrupted; the same command continues: {command}") from None


def write(sites: Mapping[str, RawDataset], out: Path) -> None:
    """Write the site folders of ``sites`` below ``out`` with progress, then print a table of them."""
    console = Console()
    with _progress(console) as show:
        write_site_folders(sites, out, show)
    show_folders([out / name for name in sites])


def cache_of(cache: Path | None) -> Path:
    """Return the folder of cached features: ``cache``, or the user's default."""
    return default_cache() if cache is None else user_path(cache, Path.cwd(), "--cache")


def print_run_command(out: Path, name: str, spec: DatasetSpec, *settings: str) -> None:
    """Print a command that runs on the folders that were written.

    It uses settings, because a path in a config is relative to the config. Multilabel data have no accuracy, so the
    command selects the best round by another metric.
    """
    selected = ("evaluate.select=macro_auroc",) if spec.target == "multilabel" else ()
    chosen = (f"data.name={name}", f"data.root={out.resolve()}", *settings, *selected)
    options = " ".join(f"--set {shlex.quote(setting)}" for setting in chosen)
    Console().print(
        f"run on it (a config may follow 'run'): fedrecon run {options}", highlight=False, markup=False, soft_wrap=True
    )


# --- data describe, check, seal and split ---------------------------------------------------------------------------


@data.command("describe")
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
    discover_data()
    summary = summarize_folder(path) if path.is_dir() else summarize_config(load_config(path, settings or []))
    print_tables(summary, Console())
    if png is not None:
        try:
            save_picture(summary, png)
        except OSError as error:
            raise DataError(f"--png {png} cannot be written: {reason(error)}") from None
        typer.echo(png)


@data.command("check")
def check(folder: Folder) -> None:
    """Read every file of a site folder, explain every fault, and leave a stamp where there is none."""
    _check_folders(folder, check_folder)


@data.command("seal")
def seal(folder: Folder) -> None:
    """Write size and SHA-256 of the files as they are now into dataset.yaml, then check."""
    _check_folders(folder, seal_folder)


@data.command("split")
def split(
    config: Annotated[Path, typer.Argument(help="The config of a simulation.")],
    out: Annotated[Path, typer.Option(help="A new folder for the site folders and federation.yaml.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a key: dotted.key=value.")] = None,
) -> None:
    """Write the simulated sites of a config as site folders, with a config to run them."""
    from fedrecon_core.preparation.simulated_sites import write_sites  # here: it imports PyTorch

    for folder in write_sites(load_config(config, settings or []), out.resolve()):
        typer.echo(folder)
    typer.echo(f"run them with: fedrecon run {out / 'federation.yaml'}")


def _check_folders(folder: Path, faults_of: Callable[[Path], Iterable[str]]) -> None:
    """Print a table of the site folders at ``folder``, or every fault that ``faults_of`` finds in one of them."""
    discover_data()
    folders = [folder] if os.path.lexists(folder / DESCRIPTION) else site_folders(folder)
    raise_faults([fault for path in folders for fault in faults_of(path)], NOT_STAMPED)
    show_folders(folders)


def raise_faults(faults: list[str], hint: str) -> None:
    """Print ``faults``, one per line, and if there are any raise a ``DataError`` with their number and ``hint``."""
    for fault in faults:
        typer.echo(one_line(fault), err=True)
    if faults:
        raise DataError(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} found{hint}")


def show_folders(folders: list[Path]) -> None:
    """Print a table of checked folders: samples per split and modality."""
    table = Table("site folder", *SPLITS, "samples with each modality, all splits together")
    for folder in folders:
        found = open_folder(folder)
        counts = [str(len(found.members(index))) for index in range(len(SPLITS))]
        having = {name: int((found.rows[name] >= 0).sum()) for name in found.spec.names}
        shown = ", ".join(f"{name} {count}" for name, count in having.items() if count) or "none"
        table.add_row(folder.resolve().name, *counts, shown)
    Console().print(table)

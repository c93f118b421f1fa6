"""Progress of ``prepare`` and ``import``, and the messages at their end or interruption."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedrecon_core.errors import FedReconError
from fedrecon_core.files import user_path
from fedrecon_core.preparation.features.cache import default_cache
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.preparation.writer import write_site_folders
from fedrecon_core.types import DatasetSpec
from server.commands.data.folders import show_folders

SECONDS = 30.0
"""Interval of the plain lines of one modality."""


class InterruptedPreparationError(FedReconError):
    """Ctrl-C while a data set was being prepared or imported."""

    exit_code = 130


class _Lines:
    """Sparse lines, for a log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, float] = {}

    def __call__(self, modality: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last.setdefault(modality, now) >= SECONDS:
            self._last[modality] = now
            self._console.print(f"{modality}: {done} of {total}", highlight=False)


class _Bars:
    """A bar per modality, for a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, int] = {}

    def __call__(self, modality: str, done: int, total: int) -> None:
        if modality not in self._tasks:
            self._tasks[modality] = self._progress.add_task(modality, total=total)
        self._progress.update(self._tasks[modality], completed=done)  # type: ignore[arg-type]


@contextmanager
def _shown(console: Console) -> Iterator[_Bars | _Lines]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        yield _Bars(progress)


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
    with _shown(console) as show:
        write_site_folders(sites, out, show)
    show_folders([out / name for name in sites])


def cache_of(cache: Path | None) -> Path:
    """The folder of cached features: the given one, else the user's."""
    return default_cache() if cache is None else user_path(cache, Path.cwd(), "--cache")


def print_run_command(out: Path, name: str, spec: DatasetSpec, *settings: str) -> None:
    """Print a command that runs on what was written. It uses settings, since a path in a config is relative to the
    config. Multilabel data have no accuracy, so it selects by another metric."""
    selected = ("evaluate.select=macro_auroc",) if spec.target == "multilabel" else ()
    chosen = (f"data.name={name}", f"data.root={out.resolve()}", *settings, *selected)
    options = " ".join(f"--set {shlex.quote(setting)}" for setting in chosen)
    Console().print(
        f"run on it (a config may follow 'run'): fedrecon run {options}", highlight=False, markup=False, soft_wrap=True
    )

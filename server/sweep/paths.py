"""What a path given to a command contains: configs, runs, sweeps, site folders. Explains paths of the wrong kind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from fedrecon_core.config.loading import read_yaml
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.errors import ConfigError, DataError, UsageError
from server.runs.formatting import listing
from server.sweep.record import SWEEP, TRIALS, is_packed, read_sweep


class Kind(StrEnum):
    """A kind of file or folder that commands know."""

    RUN_CONFIG = "the config of one run"
    SWEEP_CONFIG = "the config of a sweep"
    RUN = "the directory of one run"
    SWEEP = "the directory of a sweep"
    PACKED = "a packed sweep"
    LIST = "the list of trials in the directory of a sweep"
    SITE = "a site folder"
    SEVERAL = "a folder of runs or sweeps"


_ADVICE = {
    Kind.RUN_CONFIG: "`fedrecon run {path}` runs it",
    Kind.SWEEP_CONFIG: "`fedrecon sweep {path}` runs it; table, plot and report take the directory that this writes",
    Kind.RUN: "`fedrecon report {path}` writes its report, `fedrecon run --resume --out {path}` resumes it if it "
    "is not complete",
    Kind.SWEEP: "`fedrecon table`, `plot` and `report {path}` show its results, `fedrecon sweep` with the sweep's own "
    "YAML resumes it",
    Kind.PACKED: "`fedrecon table`, `plot` and `report {path}` show its results, `fedrecon unpack {path} DIR` restores "
    "its directory, which `fedrecon sweep` can resume",
    Kind.LIST: "`fedrecon table`, `plot` and `report {parent}` show the results; the sweep's own YAML is another file",
    Kind.SITE: "`fedrecon data check {path}` checks it",
    Kind.SEVERAL: "name one: {names}",
}
_RUN_FILES = ("manifest.json", "metrics.jsonl", "sites.jsonl", "result.json", "checkpoints")
_RUN_KEYS = ("data", "recovery", "strategy", "missing", "local", "rounds", "sites", "evaluate")


def expect(path: Path, *wanted: Kind) -> None:
    """Raise ``UsageError`` if ``path`` is of a known kind that is not ``wanted``. An unknown kind passes: the code that
    reads the path reports it."""
    found = kind_of(path)
    if found is None or found in wanted:
        return
    names = listing([shlex.quote(str(inner)) for inner in _runs_and_sweeps(path)]) if found is Kind.SEVERAL else ""
    advice = _ADVICE[found].format(path=shlex.quote(str(path)), parent=shlex.quote(str(path.parent)), names=names)
    raise UsageError(f"expected {' or '.join(wanted)}, found {found}, {path}: {advice}")


def kind_of(path: Path) -> Kind | None:
    """The kind of ``path``; None if it does not exist, cannot be read or is of no known kind."""
    try:
        if path.is_dir():
            return _kind_of_folder(path) or (Kind.SEVERAL if any(_runs_and_sweeps(path)) else None)
        if not path.is_file():
            return None
        if path.name == SWEEP and (is_packed(path.parent) or _is_list(path)):
            return Kind.LIST
        keys = read_yaml(path)
    except (OSError, ConfigError):
        return None
    if "axes" in keys:
        return Kind.LIST if "cells" in keys else Kind.SWEEP_CONFIG
    return Kind.RUN_CONFIG if any(key in keys for key in _RUN_KEYS) else None


def _kind_of_folder(path: Path) -> Kind | None:
    if (path / SWEEP).is_file():
        if is_packed(path):
            return Kind.PACKED
        if _is_list(path / SWEEP):
            return Kind.SWEEP
    if (path / "config.yaml").is_file() and any((path / name).exists() for name in _RUN_FILES):
        return Kind.RUN
    return Kind.SITE if (path / DESCRIPTION).is_file() else None


def _runs_and_sweeps(path: Path) -> Iterator[Path]:
    wanted = (Kind.RUN, Kind.SWEEP, Kind.PACKED)
    return (inner for inner in sorted(path.iterdir()) if inner.is_dir() and _kind_of_folder(inner) in wanted)


def _is_list(path: Path) -> bool:
    """Whether a ``sweep.yaml`` is a list of trials, without parsing it, which takes a second for hundreds of trials."""
    return "\ncells:" in "\n" + path.read_text(encoding="utf-8", errors="replace")


def check_out(path: Path) -> None:
    """Raise ``UsageError`` if a sweep in the folder ``path`` would overwrite, or mix with, files that it did not write.

    A folder left by an interrupted start is accepted, and so is a damaged list of trials next to their directories.
    """
    hint = "choose another, or leave it out (default runs/<name>)"
    try:
        foreign = _foreign_content(path) if path.is_dir() else ""
    except OSError as error:
        raise UsageError(f"--out {path} cannot be read: {error.strerror}; {hint}") from None
    if foreign:
        raise UsageError(f"--out {path}: expected a new or empty folder, or a sweep's, found {foreign}; {hint}")


def _foreign_content(path: Path) -> str:
    """A description of something in the folder ``path`` that no sweep wrote; empty if there is none."""
    if kind_of(path / SWEEP) is Kind.SWEEP_CONFIG:
        return f"{SWEEP} in it, the config of a sweep, which the list of trials would overwrite"
    if (path / SWEEP).exists():
        if (path / TRIALS).is_dir():
            return ""
        try:
            read_sweep(path)
        except DataError:
            return f"a {SWEEP} in it that `fedrecon sweep` did not write"
        return ""
    if any((path / TRIALS).glob("*/config.yaml")):  # the list of trials was deleted
        return ""
    for inner in sorted(path.iterdir()):
        empty = inner.name == TRIALS and inner.is_dir() and not any(inner.iterdir())
        if not (empty or inner.name == "run.lock" or inner.name.startswith(".")):
            return f"{inner.name} in it"
    return ""

"""What lies at a path that a command was given, where it is something else than the command can use."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from fedrecon_core.config.loading import read_yaml
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.errors import ConfigError, UsageError
from server.runs.formatting import listing
from server.sweep.record import SWEEP, is_packed


class Kind(StrEnum):
    """What a command takes."""

    RUN_CONFIG = "the config of one run"
    SWEEP_CONFIG = "the config of a sweep"
    RUN = "the directory of one run"
    SWEEP = "the directory of a sweep"
    PACKED = "a packed sweep"
    LIST = "the list of cells that a sweep keeps of itself"
    SITE = "a site folder"
    SEVERAL = "a folder of runs or sweeps"


_ADVICE = {
    Kind.RUN_CONFIG: "`fedrecon run {path}` runs it",
    Kind.SWEEP_CONFIG: "`fedrecon sweep {path}` runs it; table, plot and report take the directory that this makes",
    Kind.RUN: "`fedrecon report {path}` shows it, `fedrecon run --resume --out {path}` goes on where it is "
    "not complete",
    Kind.SWEEP: "`fedrecon table`, `plot` and `report {path}` show it, `fedrecon sweep` with the YAML that was written "
    "for it goes on with it",
    Kind.PACKED: "`fedrecon table`, `plot` and `report {path}` show it, `fedrecon unpack {path} DIR` makes its "
    "directory again, which `fedrecon sweep` can continue",
    Kind.LIST: "`fedrecon table`, `plot` and `report {parent}` show the sweep; what it was written as lies elsewhere",
    Kind.SITE: "`fedrecon data check {path}` tries it",
    Kind.SEVERAL: "name one: {names}",
}
_OF_A_RUN = ("manifest.json", "metrics.jsonl", "sites.jsonl", "result.json", "checkpoints")
_OF_A_CONFIG = ("data", "recovery", "strategy", "missing", "local", "rounds", "sites", "evaluate")


def expect(path: Path, *wanted: Kind) -> None:
    """``UsageError`` where something known lies at ``path`` that is not ``wanted``. What is not known is left to its
    reader."""
    found = kind_of(path)
    if found is None or found in wanted:
        return
    names = listing([shlex.quote(str(one)) for one in _inside(path)]) if found is Kind.SEVERAL else ""
    advice = _ADVICE[found].format(path=shlex.quote(str(path)), parent=shlex.quote(str(path.parent)), names=names)
    raise UsageError(f"expected {' or '.join(wanted)}, found {found}, {path}: {advice}")


def kind_of(path: Path) -> Kind | None:
    """What lies at ``path``; None for whatever else there is, or where nothing is."""
    try:
        if path.is_dir():
            return _of_folder(path) or (Kind.SEVERAL if any(_inside(path)) else None)
        return _of_file(path) if path.is_file() else None
    except OSError:  # it may be there, and is not ours to read
        return None


def _of_folder(path: Path) -> Kind | None:
    if (path / SWEEP).is_file() and is_packed(path):
        return Kind.PACKED
    if (path / SWEEP).is_file() and _is_list(path / SWEEP):
        return Kind.SWEEP
    if (path / "config.yaml").is_file() and any((path / name).exists() for name in _OF_A_RUN):
        return Kind.RUN
    return Kind.SITE if (path / DESCRIPTION).is_file() else None


def _inside(path: Path) -> Iterator[Path]:
    return (
        one for one in sorted(path.iterdir()) if one.is_dir() and _of_folder(one) in (Kind.RUN, Kind.SWEEP, Kind.PACKED)
    )


def _is_list(path: Path) -> bool:
    """Without parsing it: of hundreds of cells that takes a second."""
    return "\ncells:" in "\n" + path.read_text(encoding="utf-8", errors="replace")


def _of_file(path: Path) -> Kind | None:
    if path.name == SWEEP and (is_packed(path.parent) or _is_list(path)):
        return Kind.LIST
    try:
        keys = read_yaml(path)
    except ConfigError:
        return None
    if "axes" in keys:
        return Kind.LIST if "cells" in keys else Kind.SWEEP_CONFIG
    return Kind.RUN_CONFIG if any(key in keys for key in _OF_A_CONFIG) else None

"""Read a run directory, complete or not: a missing or damaged file becomes a note, never a crash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrecon_core.errors import DataError
from server.runs.readers import json_mapping, yaml_mapping

FILES = ("config.yaml", "manifest.json", "metrics.jsonl", "sites.jsonl", "result.json")
PICTURE = "reconstructions.png"
ABSENT = {
    "config.yaml": "the config is unknown",
    "manifest.json": "sites, missing rates and the cost of sending everything are unknown",
    "metrics.jsonl": "no round was scored",
    "sites.jsonl": "no site has reported",
    "result.json": "the run is still going, or was stopped before its end",
}


@dataclass(frozen=True)
class RunRecord:
    """The content of the files of one run directory.

    Entries are kept as they were written: read numbers with ``number``, which accepts missing ones. ``notes`` name each
    file that is missing or damaged. ``picture`` is the reconstruction grid as PNG.
    """

    directory: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()
    sites: tuple[Mapping[str, Any], ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    picture: bytes | None = None
    notes: tuple[str, ...] = ()

    def setting(self, path: str) -> Any:
        """The config value under a dotted path such as ``recovery.name``; None if there is none."""
        value: Any = self.config
        for key in path.split("."):
            value = mapping(value).get(key)
        return value

    @property
    def name(self) -> str:
        """The run's configured name, or that of its directory."""
        return str(self.setting("name") or self.directory.resolve().name)


def read_run(directory: Path) -> RunRecord:
    """Read the run directory ``directory``, finished or not.

    Raises:
        DataError: it is no directory, or has none of a run's files.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: expected a run directory, found {'a file' if directory.exists() else 'nothing'}")
    if not any((directory / name).is_file() for name in FILES):
        raise DataError(f"{directory}: expected a run directory with one of {', '.join(FILES)}, found none of them")
    files = _Files(directory)
    config, text = files.config()
    return RunRecord(
        directory=directory,
        config=config,
        config_text=text,
        manifest=files.json("manifest.json"),
        metrics=files.lines("metrics.jsonl"),
        sites=files.lines("sites.jsonl"),
        result=files.json("result.json"),
        picture=files.picture(),
        notes=tuple(files.notes),
    )


def read_metrics(directory: Path) -> RunRecord:
    """Read only the metrics of the run in ``directory``."""
    return RunRecord(directory, metrics=_Files(directory).lines("metrics.jsonl"))


def number(value: Any) -> float | None:
    """Return ``value`` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[Any]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


class _Files:
    """Reads the files of one directory and collects notes on their faults."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []

    def config(self) -> tuple[Mapping[str, Any], str]:
        """``config.yaml`` as a mapping and as text."""
        text = self._text("config.yaml")
        value = yaml_mapping(text)
        if text and value is None:
            self.notes.append("config.yaml is damaged: expected a YAML mapping.")
        return value or {}, text

    def json(self, name: str) -> Mapping[str, Any]:
        """The object in a JSON file; empty if it is missing or damaged."""
        text = self._text(name)
        value = json_mapping(text)
        if text and value is None:
            self.notes.append(f"{name} is damaged: expected a JSON object.")
        return value or {}

    def lines(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """One object per line; damaged lines, such as one that a crash cut off, are left out with a note."""
        parsed = [json_mapping(line) for line in self._text(name).splitlines() if line.strip()]
        kept = tuple(value for value in parsed if value is not None)
        if len(kept) < len(parsed):
            self.notes.append(
                f"{name}: {len(parsed) - len(kept)} of {len(parsed)} lines cannot be read; left out here."
            )
        return kept

    def picture(self) -> bytes | None:
        """The bytes of the reconstruction grid, if there is one."""
        if not (self.directory / PICTURE).is_file():
            return None
        data = self._bytes(PICTURE)
        if data and not data.startswith(b"\x89PNG"):
            self.notes.append(f"{PICTURE} is damaged: expected a PNG image.")
            return None
        return data or None

    def _text(self, name: str) -> str:
        if not (self.directory / name).is_file():
            self.notes.append(f"{name} is missing: {ABSENT[name]}.")
            return ""
        return self._bytes(name).decode("utf-8", errors="replace")

    def _bytes(self, name: str) -> bytes:
        """Return the content of a file; empty if it cannot be read."""
        try:
            return (self.directory / name).read_bytes()
        except OSError as error:
            self.notes.append(f"{name} cannot be read: {error.strerror}.")
            return b""

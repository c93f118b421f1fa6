"""The run directory: every file that a run leaves, where it lies and how it is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedrecon_core.errors import RunError, UsageError


class RunDirectory:
    """One run's folder. JSON files are replaced atomically; JSON lines are appended and flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def result(self) -> Path:
        """The file that says how the run ended."""
        return self.path / "result.json"

    def create(self, config_yaml: str) -> None:
        """Make the folder with its config; an existing run or an unwritable place is a ``UsageError``."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"--out {self.path} exists already; choose another directory, or add --resume to go on")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config_yaml)
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace the file ``name``."""
        write_text(self.path / name, json.dumps(value, indent=2, sort_keys=False) + "\n")

    def append(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append one JSON object per line to ``name``."""
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror}") from None

    def drop_rounds_after(self, name: str, last: int) -> None:
        """Take out the lines of later rounds: a resumed run writes them again. A line cut off by a crash goes too."""
        path = self.path / name
        if path.exists():
            kept = [line for line in _whole_lines(path) if line["round"] <= last]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write_text(path: Path, text: str) -> None:
    """Write, flush to the disk, rename: a crash leaves the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if path.parent.is_dir():
            raise RunError(f"cannot write {path}: {error.strerror}") from None
        raise

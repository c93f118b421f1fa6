"""From a config file and settings to a resolved config and a run directory, with every path made absolute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrecon_core.config import RunConfig, override, parse, read_yaml
from fedrecon_core.errors import ConfigError, UsageError
from fedrecon_core.registry import CORE_PACKAGES, discover
from server.run_directory import RunDirectory

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
PACKAGES = (*CORE_PACKAGES, "strategies")


@dataclass(frozen=True)
class Prepared:
    """A checked config and the directory that its run writes."""

    config: RunConfig
    directory: RunDirectory


def load_config(path: Path | None, settings: Sequence[str] = ()) -> RunConfig:
    """The config in ``path`` (default: quickstart) with ``settings`` applied and ``data.root`` made absolute."""
    discover(PACKAGES)
    source = QUICKSTART if path is None else path
    raw = override(read_yaml(source), settings)
    return parse(_rooted(raw, source.resolve().parent))


def _rooted(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("root"), str):
        return raw
    root = (base / Path(data["root"]).expanduser()).resolve()
    if not root.exists():
        raise ConfigError(f"data.root: expected an existing folder or file, found {root}")
    return {**raw, "data": {**data, "root": str(root)}}


def prepare(path: Path | None, settings: Sequence[str] = (), out: Path | None = None) -> Prepared:
    """A new run: its config, checked, in a fresh directory (default ``runs/<name>-<UTC time>``)."""
    config = load_config(path, settings)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    directory = RunDirectory((out or Path("runs") / f"{config.name}-{stamp}").resolve())
    directory.create(config.to_yaml())
    return Prepared(config, directory)


def reopen(out: Path, settings: Sequence[str] = ()) -> Prepared:
    """An existing run, to be resumed: its own ``config.yaml`` counts. ``settings`` may only change the engine."""
    directory = RunDirectory(out.resolve())
    if not directory.config.is_file():
        raise UsageError(f"--resume: {directory.path} is no run directory (it has no config.yaml)")
    strange = [setting for setting in settings if not setting.startswith("engine.")]
    if strange:
        raise UsageError(f"--resume continues the run's own config; '{strange[0]}' would change it (only engine.* may)")
    return Prepared(load_config(directory.config, settings), directory)

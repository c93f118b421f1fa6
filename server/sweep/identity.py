"""The hash by which a cell knows its own results again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.errors import ConfigError
from server.runs.readers import yaml_in


def config_sha256(config: RunConfig) -> str:
    """SHA-256 (hex) over the canonical JSON of the resolved config, without ``engine``, ``data.root`` and ``tracking``.

    They say where a run is made and who is told, and not what it is: the same config and seed give the same bytes on
    every engine, and the same data may lie in another folder on another machine. With one of them in the hash, results
    that were copied or committed would be unknown where they arrive. What the data are is in the hash by ``data.name``
    and its other keys alone: whoever puts other files under the same root gives the sweep another name.
    """
    plain = config.model_dump(mode="json", exclude={"tracking"})
    plain["data"].pop("root", None)
    del plain["engine"]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def written_sha256(path: Path) -> str | None:
    """The hash of the config in the file ``path``, read with the defaults of today; None if it is none today.

    A key that did not exist when the file was written has its default, with which runs are what they were before.
    """
    try:
        return config_sha256(parse(_without_root(yaml_in(path))))
    except (ValueError, TypeError, KeyError, ConfigError):
        return None


def written_root(path: Path) -> str | None:
    """The ``data.root`` in the config file ``path``; None if it names none, or is no config."""
    data = yaml_in(path).get("data")
    root = data.get("root") if isinstance(data, dict) else None
    return None if root is None else str(root)


def _without_root(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The folder of the data need not exist on this machine."""
    return {**raw, "data": {key: value for key, value in dict(raw["data"]).items() if key != "root"}}

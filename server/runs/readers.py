"""Tolerant readers of JSON and YAML files of runs and sweeps: a damaged or missing file is an empty mapping."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config.loading import load

LONGEST = 10_000
"""Largest number of characters of a YAML text for which libyaml is used. It is seven times as fast, and a sweep reads
hundreds of configs, but deep nesting in a longer text could crash the process."""
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def json_mapping(text: str) -> dict[str, Any] | None:
    """Parse the JSON object in ``text``; None if it is damaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def yaml_mapping(text: str) -> dict[str, Any] | None:
    """Parse the YAML mapping in ``text``; None if it is damaged."""
    try:
        value = load(text, _FAST if len(text) <= LONGEST else yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, dict) else None


def json_in(path: Path) -> dict[str, Any]:
    """Read the JSON object in the file ``path``; empty if it is missing, cannot be read, or is damaged."""
    return _in(path, json_mapping)


def yaml_in(path: Path) -> dict[str, Any]:
    """Read the YAML mapping in the file ``path``; empty if it is missing, cannot be read, or is damaged."""
    return _in(path, yaml_mapping)


def _in(path: Path, parse: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    try:
        return parse(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError):
        return {}

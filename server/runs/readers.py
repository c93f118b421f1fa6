"""What runs and sweeps have written, read back whatever has become of it: a mapping, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config.loading import load

LONGEST = 10_000
"""Characters of YAML that libyaml is given, which is seven times as fast: a sweep reads back hundreds of configs. In a
longer text, nesting could end the whole process."""
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def json_mapping(text: str) -> dict[str, Any] | None:
    """The object that ``text`` holds; None where it is damaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def yaml_mapping(text: str) -> dict[str, Any] | None:
    """The mapping that ``text`` holds; None where it is damaged."""
    try:
        value = load(text, _FAST if len(text) <= LONGEST else yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, dict) else None


def json_in(path: Path) -> dict[str, Any]:
    """The object in the file ``path``; empty where it is missing, cannot be read, or is damaged."""
    return _in(path, json_mapping)


def yaml_in(path: Path) -> dict[str, Any]:
    """The mapping in the file ``path``; empty where it is missing, cannot be read, or is damaged."""
    return _in(path, yaml_mapping)


def _in(path: Path, parse: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    try:
        return parse(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError):
        return {}

"""Load a config before validation: strict YAML files, and ``key=value`` overrides from the command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config.base import DataParams, Params
from fedrecon_core.errors import ConfigError


class StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses a repeated key; plain YAML would silently use its last value."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct the mapping of ``node``."""
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise RepeatedKeyError(str(key.value), key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class RepeatedKeyError(yaml.MarkedYAMLError):
    """One mapping has a key twice."""

    def __init__(self, key: str, mark: Any) -> None:
        super().__init__(problem=f"the key '{key}' is repeated", problem_mark=mark)
        self.key = key
        self.line = int(mark.line) + 1


def load(text: str, loader: Any = StrictLoader) -> Any:
    """Parse ``text``. Every fault is a ``yaml.YAMLError``, including an impossible date, a list as a key, or endless
    nesting."""
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # PyYAML raises KeyError for `!!bool x`, and IndexError for `!!int ""`
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in the YAML file ``path``; ``ConfigError`` if it is missing, not valid YAML or not a mapping."""
    try:
        raw = load(path.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise ConfigError(f"config file {path} is a folder; give the path of a YAML file") from None
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; give the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    except RepeatedKeyError as error:
        raise ConfigError(f"{error.key}: this key is repeated in line {error.line}; give it once") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise ConfigError(f"config file {path} must contain a mapping of keys, found {found}")
    return raw


_METHODS: dict[str, type[Params]] = {
    "data": DataParams,
    "partition": Params,
    "recovery": Params,
    "strategy": Params,
    "fusion": Params,
}
"""Sections whose ``name`` chooses a class with its own keys -> the keys that all of these classes have."""
_LEVEL_KEYS = {
    "none": set(),
    "site": {"rate", "sites", "independent"},
    "sample": {"rate", "sites", "classes"},
    "profile": {"profile", "independent"},
    "coupled": {"pairs", "complete_sites"},
}
"""Level of missingness -> the keys of a split's section that apply at this level, but not at every level."""
_SWITCHED = ("tracking",)
"""Sections in which a word such as ``auto`` is a switch and not a name; keys that are set below it replace it."""


def override(raw: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """``raw`` with each ``dotted.key=value`` of ``settings`` applied; values are parsed as YAML.

    The order of ``settings`` only matters for repeated keys, where the last value counts: a section is set before its
    keys, and its ``name`` or ``level``, which decides what keys it has, before the others. Keys of a replaced method
    or level are dropped.
    """
    result: dict[str, Any] = copy.deepcopy(dict(raw))
    parsed = []
    for text in settings:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set expects key=value, found '{text}'")
        try:
            parsed.append((key.strip().split("."), load(value)))
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: the value must be YAML, found '{value}'") from None
    for path, value in sorted(parsed, key=lambda item: (len(item[0]), item[0][-1] not in ("name", "level"))):
        *parents, last = path
        target = result
        for parent in parents:
            section = target.get(parent)
            if isinstance(section, str) and path[0] not in _SWITCHED:  # `recovery: mask` is short for `{name: mask}`
                section = {"name": section}
            target[parent] = section if isinstance(section, dict) else {}
            target = target[parent]
        for key in _outdated(target, path, value):
            del target[key]
        target[last] = value
    return result


def _outdated(target: Mapping[str, Any], path: list[str], value: Any) -> set[str]:
    """The keys of the method, or of the level of missingness, that ``value`` replaces."""
    section, last = path[-2] if len(path) > 1 else "", path[-1]
    if last == "name" and section in _METHODS and target.get("name", value) != value:
        return set(target) - set(_METHODS[section].model_fields)
    if last == "level" and path[0] == "missing" and len(path) == 3 and target.get("level", value) != value:
        all_keys = set().union(*_LEVEL_KEYS.values())
        return set(target) & (all_keys - _LEVEL_KEYS.get(str(value), all_keys))
    return set()

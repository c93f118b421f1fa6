"""Load a config before validation: strict YAML files, and ``key=value`` overrides from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config.base import DataParams, Params
from fedrecon_core.errors import ConfigError


class StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, of which plain YAML silently takes the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of ``node``."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise RepeatedKeyError(str(key.value), key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A key stands twice in one mapping."""

    def __init__(self, key: str, mark: Any) -> None:
        super().__init__(problem=f"the key '{key}' stands twice", problem_mark=mark)
        self.key = key
        self.line = int(mark.line) + 1


def load(text: str, loader: Any = StrictLoader) -> Any:
    """The value of ``text``; whatever is wrong with it is a ``yaml.YAMLError``, also a date that is none, a key that is
    a list, or a nesting that has no end."""
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # what PyYAML makes of `!!bool x` is a KeyError, of `!!int ""` an IndexError
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``; ``ConfigError`` if it is missing, no YAML, or no mapping."""
    try:
        raw = load(path.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise ConfigError(f"config file {path} is a folder; give the path of a YAML file") from None
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; give the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    except RepeatedKeyError as error:
        raise ConfigError(f"{error.key}: this key stands twice, again in line {error.line}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise ConfigError(f"config file {path} must hold a mapping of keys, found {found}")
    return raw


_CHOOSERS = ("name", "level")


def override(raw: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """``raw`` with each ``dotted.key=value`` of ``settings`` applied; values are read as YAML.

    The order of ``settings`` does not matter, except that the later of two values of one key counts: a section comes
    before its keys, and its ``name`` or ``level``, which decides what keys it has, before the others.
    """
    result: dict[str, Any] = _copy(raw)
    for path, value in sorted(map(_setting, settings), key=lambda item: (len(item[0]), item[0][-1] not in _CHOOSERS)):
        _assign(result, path, value)
    return result


def _setting(text: str) -> tuple[list[str], Any]:
    """The keys that lead to a setting, and its value."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set expects key=value, found '{text}'")
    try:
        return key.strip().split("."), load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: the value must be YAML, found '{value}'") from None


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


_METHODS: dict[str, type[Params]] = {
    "data": DataParams,
    "partition": Params,
    "recovery": Params,
    "strategy": Params,
    "fusion": Params,
}
"""Sections whose ``name`` chooses a class with keys of its own -> the keys that all of their classes have."""


_KEYS_OF_LEVEL = {
    "none": set(),
    "site": {"rate", "sites", "independent"},
    "sample": {"rate", "sites", "classes"},
    "profile": {"profile", "independent"},
    "coupled": {"pairs", "complete_sites"},
}
_LEVEL_KEYS: set[str] = set().union(*_KEYS_OF_LEVEL.values())
"""Keys of a split's missingness that act at some levels only -> see ``_KEYS_OF_LEVEL``."""


_SWITCHED = ("tracking",)
"""Sections in which a word such as ``auto`` switches something on and names nothing: keys set below take its place."""


def _assign(target: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        below = target.get(parent)
        if isinstance(below, str) and path[0] not in _SWITCHED:  # `recovery: mask` is short for `{name: mask}`
            below = {"name": below}
        target[parent] = below if isinstance(below, dict) else {}
        target = target[parent]
    for key in _outdated(target, path, value):
        del target[key]
    target[last] = value


def _outdated(target: Mapping[str, Any], path: list[str], value: Any) -> set[str]:
    """The keys that belonged to the method, or to the level of missingness, that ``value`` replaces."""
    section, last = path[-2] if len(path) > 1 else "", path[-1]
    if last == "name" and section in _METHODS and target.get("name", value) != value:
        return set(target) - set(_METHODS[section].model_fields)
    if last == "level" and path[0] == "missing" and len(path) == 3 and target.get("level", value) != value:
        return set(target) & (_LEVEL_KEYS - _KEYS_OF_LEVEL.get(str(value), _LEVEL_KEYS))
    return set()

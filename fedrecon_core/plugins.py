"""Plugins: installed packages of users that add registered classes.

A package announces itself with an entry point in the group ``fedrecon.plugins``: its name is what a config lists under
``plugins``, its value the package or module to import. A config imports only plugins that it names, and only installed
packages with such an entry point can be named: a message from a server makes a site import nothing else.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from fedrecon_core.errors import ConfigError, did_you_mean

GROUP = "fedrecon.plugins"


class MissingPluginError(ConfigError):
    """The config names plugins, ``names``, that are not installed."""

    def __init__(self, names: Iterable[str], at_site: bool = False) -> None:
        """``at_site``: the message goes to the server, so it reveals nothing about the site's environment."""
        self.names = tuple(names)
        entry = f"a package with an entry point of this name in the group {GROUP}"
        if at_site:
            place, hint = "at this site", "or resume the run without this site"
        else:
            known = installed()
            nearest = did_you_mean(self.names[0], known) or f"Installed: {', '.join(known) or 'none'}."
            place, hint = f"for {sys.executable}", f"or take it out of plugins. {nearest}"
        super().__init__(f"plugins: {', '.join(self.names)} is not installed {place}; install {entry}, {hint}")


def installed() -> Mapping[str, EntryPoint]:
    """The entry points of all installed plugins by name, sorted."""
    return _installed(tuple(sys.path))


@lru_cache(maxsize=4)
def _installed(_: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """Read once per search path: a sweep asks for each of its trials."""
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: point for point in found}


def require(names: Iterable[str]) -> list[EntryPoint]:
    """The entry points of the plugins ``names``; ``MissingPluginError`` if one is not installed."""
    wanted = list(dict.fromkeys(names))
    known = installed() if wanted else {}
    if missing := [name for name in wanted if name not in known]:
        raise MissingPluginError(missing)
    return [known[name] for name in wanted]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Distribution -> version of each of the plugins ``names``."""
    return {point.dist.name: point.dist.version for point in require(names) if point.dist is not None}


def sources(names: Iterable[str]) -> dict[str, Path]:
    """Relative path ("my_package/half.py") -> file, of the ``.py`` files of the packages of the plugins ``names``."""
    found = {}
    for package in sorted({point.module.partition(".")[0] for point in require(names)}):
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        if spec is None or (spec.submodule_search_locations is None and spec.origin is None):
            continue
        for location in spec.submodule_search_locations or ():
            folder = Path(location)
            paths = (path for path in folder.rglob("*.py") if path.is_file())
            found.update({f"{package}/{path.relative_to(folder).as_posix()}": path for path in paths})
        if spec.submodule_search_locations is None:  # a single module
            found[f"{package}.py"] = Path(str(spec.origin))
    return found


def offering(name: str) -> list[str]:
    """The installed plugins whose source registers a class as ``name``; nothing is imported."""
    pattern = re.compile(rf"\.register\(\s*[\"']{re.escape(name)}[\"']")

    def registers(path: Path) -> bool:
        return pattern.search(path.read_text(encoding="utf-8", errors="replace")) is not None

    return [plugin for plugin in installed() if any(map(registers, sources([plugin]).values()))]


def plugin_of(cls: type) -> str | None:
    """The installed plugin that a class comes from; None for a class of FedRecon itself."""
    module = f"{cls.__module__}."
    return next((name for name, point in installed().items() if module.startswith(f"{point.module}.")), None)

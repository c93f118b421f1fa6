"""The hash of the code that a process runs. The server compares it with that of every site."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from fedrecon_core.plugins import sources as plugin_sources

PACKAGES = ("client", "fedrecon_core", "server", "strategies")


def code_hash(plugins: Sequence[str] = ()) -> str:
    """SHA-256 (hex) over the sorted relative paths and the bytes of the ``.py`` files of the four packages and of the
    packages of ``plugins``, the plugins of a config.

    The templates of the reports are not part of it: they change how results are shown, never the results.
    Packages that are not installed are left out. The files are read once per process: if one changes later, the process
    still runs the old code, and has its hash.
    """
    return _code_hash(tuple(sorted(plugins)))


@functools.cache
def _code_hash(plugins: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted({**sources(".py"), **plugin_sources(plugins)}.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def sources(*suffixes: str) -> dict[str, Path]:
    """Relative path ("server/cli.py") -> file, of the files of the four packages that end in one of ``suffixes``."""
    found = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        for folder in map(Path, (spec.submodule_search_locations if spec else None) or ()):
            for path in folder.rglob("*"):
                if path.suffix in suffixes and path.is_file():
                    found[f"{package}/{path.relative_to(folder).as_posix()}"] = path
    return found

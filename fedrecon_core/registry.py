"""Name -> class tables, filled by a decorator: adding a file to a scanned package adds the method."""

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from fedrecon_core import plugins
from fedrecon_core.errors import ConfigError, did_you_mean

Base = TypeVar("Base")
"""The base class of a registry's classes."""
Class = TypeVar("Class", bound=type)

CORE_PACKAGES = (
    "fedrecon_core.datasets",
    "fedrecon_core.data.partitions",
    "fedrecon_core.modalities",
    "fedrecon_core.recovery",
    "fedrecon_core.task",
    "fedrecon_core.metrics",
)
DATA_PACKAGES = ("fedrecon_core.datasets", "fedrecon_core.preparation.features")
"""Data sets, and features, which turn files into arrays; only the preparation of data looks for features."""
METRIC_PACKAGES = ("fedrecon_core.metrics",)
"""All that commands need to show results: the other packages import PyTorch."""


class Registry(Generic[Base]):
    """The classes of one kind, for example every recovery, by the names that a config uses.

    ``Base`` is their base class. The registries below are ``Registry[Any]``: the config reads them, and cannot import
    the base classes, which are in higher layers.
    """

    def __init__(self, kind: str) -> None:
        """``kind`` is the word that error messages use ("recovery", "strategy", ...)."""
        self.kind = kind
        self._classes: dict[str, type[Base]] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """Decorate a class to enter it under ``name``; a second class under the same name is a ``ValueError``.

        The same class of the same module may enter again, for example when the module is imported again.
        """

        def enter(cls: Class) -> Class:
            known = self._classes.get(name)
            if known is not None and _origin(known) != _origin(cls):
                raise ValueError(
                    f"{self.kind} '{name}' is already {_origin(known)}, so it cannot be {_origin(cls)} too"
                )
            self._classes[name] = cls
            return cls

        return enter

    def get(self, name: str) -> type[Base]:
        """The class under ``name``. An unknown name raises ``ConfigError`` with the known ones, the nearest of them,
        and the installed plugins that offer it."""
        known = dict(self.items())
        if name in known:
            return known[name]
        hint = did_you_mean(str(name), known)
        if offers := plugins.offering(str(name)):
            hint = f"The installed plugin '{offers[0]}' offers it: add plugins: [{offers[0]}] to the config."
        raise ConfigError(f"unknown {self.kind} '{name}'; known: {', '.join(known)}. {hint}".rstrip())

    def names(self) -> list[str]:
        """The known names, sorted."""
        return [name for name, _ in self.items()]

    def items(self) -> Iterator[tuple[str, type[Base]]]:
        """(name, class) pairs in sorted order, without those of plugins that are not in use (``use_plugins``)."""

        def is_unused(cls: type[Base]) -> bool:
            return any(f"{cls.__module__}.".startswith(f"{module}.") for module in _unused)

        return iter(sorted((name, cls) for name, cls in self._classes.items() if not is_unused(cls)))

    def forget(self, name: str) -> None:
        """Take ``name`` out again (for tests that enter a toy method)."""
        self._classes.pop(name, None)


def _origin(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


_loaded: set[str] = set()
_unused: set[str] = set()
"""The modules of the plugins that this process has loaded, and of those among them that are not in use."""


def use_plugins(names: Iterable[str]) -> None:
    """Import the plugins ``names`` with their subpackages, and hide the classes of all other plugins that this process
    has loaded: the names that a config may use depend on the config alone.

    Raises ``ConfigError`` if a plugin is not installed, or cannot be imported.
    """
    modules = [point.module for point in plugins.require(names)]
    for name in modules:
        _import(name)
        _import_submodules(name)
    _loaded.update(modules)
    _unused.clear()
    _unused.update(_loaded.difference(modules))


DATASETS: Registry[Any] = Registry("data set")
PARTITIONS: Registry[Any] = Registry("partition")
MODALITIES: Registry[Any] = Registry("modality kind")
RECOVERIES: Registry[Any] = Registry("recovery")
FUSIONS: Registry[Any] = Registry("fusion")
METRICS: Registry[Any] = Registry("metric")
FEATURES: Registry[Any] = Registry("feature")
STRATEGIES: Registry[Any] = Registry("strategy")


def discover(packages: Iterable[str]) -> None:
    """Import every module of ``packages`` and their subpackages so that their decorators run. The caller names the
    packages: the core does not know the ones above it."""
    for name in packages:
        importlib.import_module(name)
        _import_submodules(name)


def _import_submodules(name: str) -> None:
    """Import all modules of a package and of its subpackages, except ``__main__``."""
    for module in pkgutil.iter_modules(getattr(sys.modules[name], "__path__", ()), prefix=f"{name}."):
        if not module.name.endswith(".__main__"):
            _import(module.name)
            _import_submodules(module.name)


def _import(name: str) -> None:
    """Import a module that may be a user's own; any error in it becomes a ``ConfigError`` with its location."""
    try:
        importlib.import_module(name)
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}, line {frames[-1].lineno}"
        raise ConfigError(f"{name} cannot be imported: {type(error).__name__}: {error} ({place})") from error

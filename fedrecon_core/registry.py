"""Name -> class tables, filled by a decorator: adding a file to a scanned package adds the method."""

import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

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
FEATURE_PACKAGES = ("fedrecon_core.preparation.features",)
"""What turns files into arrays; only the preparation of data looks for it."""


class Registry(Generic[Base]):
    """The classes of one kind, for example every recovery, by the names that a config uses.

    ``Base`` is their base class. The registries below are ``Registry[Any]``: the config reads them, and cannot import
    the base classes, which stand above it.
    """

    def __init__(self, kind: str) -> None:
        """``kind`` is the word that error messages use ("recovery", "strategy", ...)."""
        self.kind = kind
        self._classes: dict[str, type[Base]] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """Decorate a class to enter it under ``name``; a second class under the same name is a ``ValueError``.

        The same class of the same module may enter again, as when the module is imported anew.
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
        """The class under ``name``; an unknown name raises ``ConfigError`` with the known ones and the nearest."""
        if name in self._classes:
            return self._classes[name]
        told = f"unknown {self.kind} '{name}'; known: {', '.join(self.names())}."
        raise ConfigError(f"{told} {did_you_mean(str(name), self._classes)}".rstrip())

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._classes)

    def items(self) -> Iterator[tuple[str, type[Base]]]:
        """(name, class) pairs in sorted order."""
        return iter(sorted(self._classes.items()))

    def forget(self, name: str) -> None:
        """Take ``name`` out again (for tests that enter a toy method)."""
        self._classes.pop(name, None)


def _origin(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


DATASETS: Registry[Any] = Registry("data set")
PARTITIONS: Registry[Any] = Registry("partition")
MODALITIES: Registry[Any] = Registry("modality kind")
RECOVERIES: Registry[Any] = Registry("recovery")
FUSIONS: Registry[Any] = Registry("fusion")
METRICS: Registry[Any] = Registry("metric")
FEATURES: Registry[Any] = Registry("feature")
STRATEGIES: Registry[Any] = Registry("strategy")


def discover(packages: Iterable[str]) -> None:
    """Import every module of ``packages`` so that their decorators run. The caller names the packages: the core
    does not know the ones above it."""
    for name in packages:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{name}."):
            _import(module.name)


def _import(name: str) -> None:
    """Import a module that may be a user's own; what is wrong with it is a ``ConfigError`` with the place."""
    try:
        importlib.import_module(name)
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}, line {frames[-1].lineno}"
        raise ConfigError(f"{name} cannot be imported: {type(error).__name__}: {error} ({place})") from error

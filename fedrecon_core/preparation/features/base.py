"""Base classes of features: from contents (files, texts) to arrays, in batches."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.types import ModalitySpec

FloatArray = NDArray[np.float32]

INSTALL = 'python -m pip install -c constraints.txt -e ".[features]"'
SAME_INDEX = "python -m pip install --force-reinstall --no-deps -c constraints.txt torch torchvision --index-url"


@dataclass(frozen=True)
class RawItem:
    """The input of a feature. ``data``: the bytes of a file, or a text in UTF-8; ``origin``: its name in messages (a
    path or a sample)."""

    data: bytes
    origin: str


class Feature(ABC):
    """Base class of registered features. ``Params`` are the config keys."""

    Params: ClassVar[type[Params]] = Params
    medium: ClassVar[Literal["audio", "image", "text", "series"]]
    """The kind of content that it reads."""
    costly: ClassVar[bool] = False
    """Whether extraction is slow enough for arrays to be cached (``CachedFeature``). Cheap features are not cached, so
    that patients' images are not stored a second time."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Packages whose version affects the arrays -> the module to import."""
    version: ClassVar[int] = 1
    """Increased when the same keys give other arrays, so that old cache entries are not used."""

    def __init__(self, params: Any) -> None:
        """Store ``params``. Nothing heavy is imported or loaded before ``extract``."""
        self.params = params

    @property
    @abstractmethod
    def ragged(self) -> bool:
        """Whether arrays differ in length."""

    @abstractmethod
    def modality(self, name: str) -> ModalitySpec:
        """Return the specification of a modality ``name`` with this feature."""

    def fingerprint(self) -> str:
        """Return everything except the content that determines the arrays: version, keys, library versions, and a hash
        of the weights if there are any."""
        return " ".join((str(self.version), self.params.model_dump_json(), *self.library_versions()))

    def library_versions(self) -> Sequence[str]:
        """Return the installed versions of ``libraries`` without importing them."""
        found = []
        for package in self.libraries:
            try:
                found.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                found.append(f"{package} none")
        return found

    def require(self) -> None:
        """Raise ``DataError`` if a library cannot be imported or weights are missing, before any file is read."""
        for module in self.libraries.values():
            require_library(self.params.name, module)

    @abstractmethod
    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """Return a float32 array [*shape] (ragged: [T_i, D]) per content, in order. Raises ``DataError`` naming the
        origin of a content that it cannot read."""


class WeightedFeature(Feature):
    """Base class of features with pretrained weights, read from local files and never downloaded. The key ``weights``
    of ``Params`` is their path; None means the user's cache."""

    @abstractmethod
    def locate(self) -> Sequence[Path]:
        """Return the files that determine the arrays, in a fixed order. Raises ``DataError`` naming a missing file,
        where it belongs and how to get it."""

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The result of ``locate``."""
        return tuple(self.locate())

    def fingerprint(self) -> str:
        """Version, keys, library versions and the content of the files, wherever they are stored."""
        keys = self.params.model_dump_json(exclude={"weights"})
        digests = (f"{path.name} {sha256_of(path)}" for path in self.files)
        return " ".join((str(self.version), keys, *self.library_versions(), *digests))

    def require(self) -> None:
        """Check the libraries, and that the files exist; their content is read with the first item."""
        super().require()
        _ = self.files


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, computed once per process and again when its size or time changes."""
    try:
        state = path.stat()
        return _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: expected a readable file of weights, found {error.strerror}") from None


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_library(feature: str, library: str, name: str | None = None) -> Any:
    """Import the module ``library``, or ``name`` from it. Raises ``DataError`` that says how to install what
    ``feature`` needs."""
    package = library.partition(".")[0]
    try:
        importlib.import_module(package)
        module = importlib.import_module(library)
        return module if name is None else getattr(module, name)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        cause: BaseException = error
        while (earlier := cause.__cause__ or cause.__context__) is not None:
            cause = earlier
        if isinstance(cause, ModuleNotFoundError) and cause.name == package:
            fault = f"expected the library {package}, found none; install the extra: {INSTALL}"
        elif "operator torchvision::" in str(cause):
            # torchvision's compiled part fits one build of torch only. Without it, torchvision cannot be imported, and
            # neither can transformers, which imports torchvision if it is installed.
            import torch

            build = torch.__version__.partition("+")[2] or "cpu"
            fault = (
                f"expected a torchvision built for the installed torch {torch.__version__}, found one of another "
                f"build; install both from one index: {SAME_INDEX} https://download.pytorch.org/whl/{build}"
            )
        else:
            found = " ".join(f"{type(cause).__name__}: {cause}".split())
            fault = f"expected that {package} can be imported, found {found}; reinstall it: {INSTALL}"
        raise DataError(f"{feature}: {fault}") from error

"""What a feature offers: contents (files, texts) in, arrays out, in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import Params
from fedrecon_core.preparation.features.extra import require_library
from fedrecon_core.types import ModalitySpec

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class RawItem:
    """What a feature is made of. ``data``: the bytes of a file, or a text in UTF-8; ``origin``: what messages call it
    (its path, its sample)."""

    data: bytes
    origin: str


class Feature(ABC):
    """Base of a registered feature. ``Params`` are its keys."""

    Params: ClassVar[type[Params]] = Params
    medium: ClassVar[Literal["audio", "image", "text", "series"]]
    """What its contents are."""
    costly: ClassVar[bool] = False
    """Whether extracting takes so long that the arrays are kept (``CachedFeature``). What is read in no time is read
    again instead: patients' images are not to lie in a second place."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Packages whose versions have a part in the arrays -> the module of each that is imported."""
    version: ClassVar[int] = 1
    """Counts up when the same keys come to mean other arrays, so that no cache gives the old ones."""

    def __init__(self, params: Any) -> None:
        """``params`` are this feature's keys. Nothing heavy is imported or loaded before ``extract``."""
        self.params = params

    @property
    @abstractmethod
    def ragged(self) -> bool:
        """Whether the arrays have lengths of their own."""

    @abstractmethod
    def modality(self, name: str) -> ModalitySpec:
        """The specification of a modality ``name`` that holds this feature."""

    def fingerprint(self) -> str:
        """All that decides the arrays beside the contents: version, keys, versions of the libraries, and a hash of the
        weights where there are any."""
        return " ".join((str(self.version), self.params.model_dump_json(), *self.editions()))

    def editions(self) -> Sequence[str]:
        """The libraries with their versions, none of them imported."""
        return [f"{package} {_edition(package)}" for package in self.libraries]

    def require(self) -> None:
        """Before thousands of files are read: ``DataError`` where a library cannot be imported or weights are not
        there."""
        for module in self.libraries.values():
            require_library(self.params.name, module)

    @abstractmethod
    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [*shape] (ragged: [T_i, D]) per content, in order. ``DataError`` naming an origin that is not what
        the feature reads."""


def _edition(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"

"""Base class of data sets that are prepared once, from their official files to a site folder, and opened from there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import Dataset, DatasetLoader
from fedrecon_core.data.site_folder.description import DESCRIPTION
from fedrecon_core.data.site_folder.opening import open_whole
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.types import StrictModel


class PreparedLoader(DatasetLoader):
    """Base class of prepared data sets. ``Raw`` are the keys of the preparation; ``Params`` apply when it is loaded, so
    one prepared folder serves every protocol. The registered name is the name in the prepared specification."""

    Raw: ClassVar[type[StrictModel]] = StrictModel
    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[Literal["multiclass", "multilabel"]] = "multiclass"
    opens_files: ClassVar[bool] = False
    """Shown by `fedrecon data list`; ``opens_files``: whether it can be used without preparation."""

    @classmethod
    @abstractmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        """Return the files that must be below ``raw`` in the official layout, given the keys ``Raw``."""

    @classmethod
    @abstractmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """Read the samples below ``raw`` and return readers of their rows; ``DataError`` naming an invalid file.

        ``cache`` is the folder of a ``CachedFeature``; it does not affect the rows.
        """

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Open the prepared folder ``root`` with memory-mapped arrays."""
        return self.open(root)

    def open(self, root: Path | None) -> Dataset:
        """Open a prepared folder; ``DataError`` if it is not one, or of another data set."""
        if root is None or not (root / DESCRIPTION).is_file():
            found = "none" if root is None else f"{root} without {DESCRIPTION}"
        elif (dataset := open_whole(root)).spec.name == self.name:
            return dataset
        else:
            found = f"one of '{dataset.spec.name}'"
        command = f"fedrecon data prepare {self.name} --raw RAW --out DIR"
        hint = f"`{command}` creates one (a path in a config is relative to the config file)"
        raise DataError(f"data.root: expected a folder prepared for '{self.name}', found {found}; {hint}")

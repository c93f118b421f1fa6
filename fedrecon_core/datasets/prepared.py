"""Data sets that are prepared once, from their official files to a folder in the site format, and opened from there."""

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
    """Base of such a data set. ``Raw`` are the keys of its preparation; its ``Params`` act when it is loaded, so that
    one prepared folder serves every protocol. The registered name is the name in the prepared specification."""

    Raw: ClassVar[type[StrictModel]] = StrictModel
    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[Literal["multiclass", "multilabel"]] = "multiclass"
    opens_files: ClassVar[bool] = False
    """What `fedrecon data list` tells of it, the last whether it need not be prepared; nothing else reads the three."""

    @classmethod
    @abstractmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        """The files that must be below ``raw`` in the official layout, under the keys ``Raw``."""

    @classmethod
    @abstractmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """The samples of the files below ``raw`` and how to read their rows; ``DataError`` naming a file at fault.

        ``cache`` is the folder of a ``CachedFeature``; it decides nothing about the rows.
        """

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """The prepared folder ``root``, its arrays mapped from the disk."""
        return self.open(root)

    def open(self, root: Path | None) -> Dataset:
        """The prepared folder; ``DataError`` where it is none, of another data set, or lacks a modality."""
        if root is None or not (root / DESCRIPTION).is_file():
            raise self._misfit("none" if root is None else f"{root} without {DESCRIPTION}")
        dataset = open_whole(root)
        if dataset.spec.name != self.name:
            raise self._misfit(f"one of '{dataset.spec.name}'")
        return dataset

    def _misfit(self, found: str) -> DataError:
        told = f"`fedrecon data prepare {self.name} --raw RAW --out DIR` makes one (a path relative to the config file)"
        return DataError(f"data.root: expected a folder prepared for '{self.name}', found {found}; {told}")

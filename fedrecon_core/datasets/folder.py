"""Data set ``folder``: one site folder as a whole data set, to be divided among simulated sites."""

from __future__ import annotations

from pathlib import Path

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import Dataset, DatasetLoader
from fedrecon_core.data.site_folder.opening import open_whole
from fedrecon_core.errors import DataError
from fedrecon_core.registry import DATASETS


class FolderParams(DataParams):
    """``root``: the site folder."""


@DATASETS.register("folder")
class Folder(DatasetLoader):
    """A folder that ``fedrecon data import`` or ``fedrecon data prepare`` wrote, whatever the data set's name."""

    Params = FolderParams

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Open the folder with its arrays mapped from the disk; ``DataError`` if it is not a checked site folder."""
        if root is None:
            raise DataError("data.root: data set 'folder' expects a site folder here, found none")
        return open_whole(root)

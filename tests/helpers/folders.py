"""Site folders of the toy data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import BoolArray, Dataset
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from tests.helpers.toy import tiny_dataset


def content(dataset: Dataset, present: BoolArray | None = None, members: np.ndarray | None = None) -> FolderContent:
    """What a folder of ``dataset`` holds; ``present`` bool [N, M] hides some of it, ``members`` are the samples."""
    chosen = np.arange(len(dataset.labels)) if members is None else members
    shown = np.ones((len(chosen), len(dataset.spec.names)), dtype=bool) if present is None else present
    samples = Samples(
        *(part[chosen] for part in (dataset.ids, dataset.labels, dataset.split, dataset.cluster_ids)), shown
    )
    arrays, offsets = {}, {}
    for index, name in enumerate(dataset.spec.names):
        rows = dataset.rows[name][chosen[shown[:, index]]]
        if name not in dataset.offsets:
            arrays[name] = np.asarray(dataset.arrays[name])[rows]
            continue
        borders = dataset.offsets[name]
        pieces = [dataset.arrays[name][borders[row] : borders[row + 1]] for row in rows]
        arrays[name] = np.concatenate(pieces)
        offsets[name] = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    return FolderContent(dataset.spec, samples, arrays, offsets)


def write_toy_folder(folder: Path) -> Path:
    """One site folder with the whole toy data set."""
    write_folder(folder / "whole", content(tiny_dataset(24, 12)))
    return folder / "whole"


def write_toy_sites(folder: Path) -> Path:
    """Two site folders that share the groups of the toy data set between them; the second lacks ``features``."""
    dataset = tiny_dataset(24, 12)
    for turn, name in enumerate(("north", "south")):
        members = np.flatnonzero(dataset.cluster_ids % 2 == turn)
        present = np.ones((len(members), len(dataset.spec.names)), dtype=bool)
        present[:, dataset.spec.names.index("features")] = name == "north"
        write_folder(folder / name, content(dataset, present, members))
    return folder

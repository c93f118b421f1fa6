"""Site folders for tests: the toy data set as folders, and a large folder without disk usage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import BoolArray, Dataset
from fedrecon_core.data.site_folder.description import array_file, offsets_file
from fedrecon_core.data.site_folder.files import save_array
from fedrecon_core.data.site_folder.samples import Samples, write_samples
from fedrecon_core.data.site_folder.stamp import write_stamp
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.types import DatasetSpec, ModalitySpec
from tests.helpers.toy import tiny_dataset


def content(dataset: Dataset, present: BoolArray | None = None, members: np.ndarray | None = None) -> FolderContent:
    """The content of a folder with the samples ``members`` of ``dataset``; ``present`` bool [N, M] hides values."""
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


# --- a large folder whose arrays are holes ----------------------------------------------------------------------------

SPEC = DatasetSpec(
    name="large",
    modalities=(
        ModalitySpec(name="scan", kind="image", shape=(3, 224, 224), scale="standard"),
        ModalitySpec(name="note", kind="sequence", shape=(128, 512)),
    ),
    classes=("no", "yes"),
)
SCAN, STEPS = 4 * 3 * 224 * 224, 64


def write_large_folder(folder: Path, size: int) -> int:
    """Write ``size`` bytes of scans with a note of 64 steps for each; return the number of samples. The arrays are
    sparse files, which read as zeros. No file is hashed: that takes a minute for 10 GB, and opening a
    folder does not need it.
    """
    count = size // SCAN
    (folder / "arrays").mkdir(parents=True)
    _hole(folder / array_file("scan"), (count, 3, 224, 224))
    _hole(folder / array_file("note"), (count * STEPS, 512))
    save_array(folder / offsets_file("note"), np.arange(0, count * STEPS + 1, STEPS))
    order = np.arange(count, dtype=np.int64)
    split = np.minimum(order * 10 // count, 9)
    samples = Samples(
        order, order % 2, np.select([split < 8, split < 9], [0, 1], 2), order, np.ones((count, 2), dtype=bool)
    )
    write_samples(folder / "samples.parquet", SPEC, samples)
    (folder / "dataset.yaml").write_text(SPEC.model_dump_json(), encoding="utf-8")
    write_stamp(folder, samples)
    return count


def _hole(path: Path, shape: tuple[int, ...]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 4 * int(np.prod(shape)))

"""A site folder of any size that takes no room on the disk: its arrays are holes, which read as zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrecon_core.data.site_folder.description import array_file, offsets_file
from fedrecon_core.data.site_folder.files import save_array
from fedrecon_core.data.site_folder.samples import Samples, write_samples
from fedrecon_core.data.site_folder.stamp import write_stamp
from fedrecon_core.types import DatasetSpec, ModalitySpec

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
    """``size`` bytes of scans, and a note of 64 steps for each; the number of samples. No file is hashed, which takes a
    minute for 10 GB and has no part in opening a folder."""
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

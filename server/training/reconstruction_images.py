"""Draw the cross-modal reconstructions of a run with generators over images, as a grid in a PNG file."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrecon_core.errors import DataError
from fedrecon_core.inference import load_model
from server.federation.registration import RunSites
from server.runs.directory import RunDirectory, write_file

MOST_ROWS = 10
"""Rows of the grid: one source image of each of the first ten classes. A sample with several classes counts as one of
its rarest class."""
TILE = 84  # the minimum size of a tile in pixels: smaller images are enlarged by a whole factor
GAP = 6
PAPER = 1.0
EMPTY = 0.9  # shade of a tile without a reconstruction
DPI = 100


def draw_reconstructions(directory: RunDirectory, sites: RunSites) -> None:
    """Write ``reconstructions.png``: a column of sources, then one column per modality reconstructed from them.

    There is no picture for recoveries without generators, for data without two image modalities of the same size, for a
    test set in which the source is never present, and for data that only the sites have.
    """
    if sites.server_data is None:
        return
    dataset, spec = sites.server_data.dataset, sites.server_data.dataset.spec
    pictures = [m for m in spec.modalities if m.kind == "image" and m.scale == "none"]
    images = [m.name for m in pictures if m.shape == pictures[0].shape]  # those that fit one grid
    model = load_model(directory.model)
    maker = model.recovery.translator(model.groups, model.global_info)
    if maker is None or len(images) < 2:
        return
    source = max(images, key=lambda name: sum(maker.translates((name, target)) for target in images))
    column, shares = spec.names.index(source), sites.server_data.allocation.test.values()
    # absent data are never shown: the source must be present under some mask
    shown = np.unique(np.concatenate([share.samples[share.present[:, column]] for share in shares]))
    labels = dataset.strata()[shown]
    samples = np.concatenate([shown[labels == label][:1] for label in range(min(len(spec.classes), MOST_ROWS))])
    if not len(samples):
        return
    pixels = torch.from_numpy(dataset.arrays[source][dataset.rows[source][samples]])
    targets = [target for target in images if maker.translates((source, target))]
    with torch.no_grad():
        made = [maker.translate(pixels, (source, target)) for target in targets]
    grid = torch.stack([pixels, *made], dim=1).clamp(0, 1).numpy()
    columns = [f"{source} (source)", *(f"to {target}" for target in targets)]
    rows = [spec.classes[int(label)] for label in dataset.strata()[samples]]
    save_grid(directory.path / "reconstructions.png", columns, rows, grid)


def save_grid(path: Path, columns: list[str], rows: list[str], images: NDArray[Any]) -> None:
    """Draw ``images`` [R, C, 3 (or 1), H, W], values 0 to 1, as a titled grid and save it as PNG under ``path``.

    A wider gap separates the first column, the sources, from the others. A tile with NaN (there is no trained path to
    that modality) is drawn as an empty gray one.

    Raises:
        DataError: the numbers of titles do not match the images, or the images have another shape.
        RunError: the file cannot be written.
    """
    expected = (len(rows), len(columns))
    if images.ndim != 5 or images.shape[:2] != expected or images.shape[2] not in (1, 3) or 0 in images.shape:
        raise DataError(f"reconstruction grid: expected images {[*expected, 3, 'H', 'W']}, found {list(images.shape)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mosaic, across, down = _mosaic(images)
    titles = [fill(name, max(8, mosaic.shape[1] // (7 * len(columns)))) for name in columns]
    height, width = mosaic.shape[:2]
    left, top = 14 + 7 * max(map(len, rows)), 12 + 14 * max(title.count("\n") + 1 for title in titles)
    total_width, total_height = left + width + 8, top + height + 8
    # A figure on its own canvas: pyplot would keep global state and choose a backend for the whole process.
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / total_width, 8 / total_height, width / total_width, height / total_height))
    axes.imshow(mosaic, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set_axis_off()
    style: dict[str, Any] = {"fontsize": 9, "color": "#333333", "parse_math": False, "clip_on": False}
    for x, title in zip(across, titles, strict=True):
        axes.text(x, -8, title, ha="center", va="bottom", **style)
    for y, name in zip(down, rows, strict=True):
        axes.text(-8, y, name, ha="right", va="center", **style)
    write_file(path, lambda part: figure.savefig(part, format="png", metadata={"Software": None}))


def _mosaic(images: NDArray[Any]) -> tuple[NDArray[np.float32], list[float], list[float]]:
    """One picture [height, width, 3] and the centers of its columns and rows, in pixels. Images are enlarged by
    repeating their pixels."""
    count_down, count_across, _, height, width = images.shape
    factor = max(1, -(-TILE // max(height, width)))
    tall, wide = height * factor, width * factor
    left = [c * (wide + GAP) + (2 * GAP if c else 0) for c in range(count_across)]
    top = [r * (tall + GAP) for r in range(count_down)]
    mosaic = np.full((top[-1] + tall, left[-1] + wide, 3), PAPER, dtype=np.float32)
    for r, y in enumerate(top):
        for c, x in enumerate(left):
            image = images[r, c]
            if not np.isfinite(image).all():
                image = np.full_like(image, EMPTY, dtype=np.float32)
            large = np.clip(image, 0, 1).transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
            mosaic[y : y + tall, x : x + wide] = large  # a single channel is repeated for all three colors
    return mosaic, [x + wide / 2 for x in left], [y + tall / 2 for y in top]

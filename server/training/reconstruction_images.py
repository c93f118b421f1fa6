"""The grid of cross-modal reconstructions as a PNG: of a run with generators over images."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrecon_core.data.allocation import ServerData
from fedrecon_core.errors import DataError
from fedrecon_core.inference import load_model
from server.federation.registration import RunSites
from server.runs.directory import RunDirectory, write_file

MOST_ROWS = 10
"""Rows of the grid: one source image of each of the first ten classes; a sample with several counts as the rarest."""


TILE = 84  # pixels of a tile, at least: small images are enlarged by whole factors, pixel by pixel
GAP = 6
PAPER = 1.0
EMPTY = 0.9  # shade of a tile that could not be reconstructed
DPI = 100


def draw_reconstructions(directory: RunDirectory, sites: RunSites) -> None:
    """Write ``reconstructions.png``: a source column, then one column per modality reconstructed from it.

    There is no picture for recoveries without generators, for data without two image modalities of one size, for a test
    set that never shows their source, and for data that stay at the sites.
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
    samples = _one_per_class(sites.server_data, source)
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


def _one_per_class(data: ServerData, source: str) -> np.ndarray:
    """The first test sample of each class whose ``source`` is present under some mask: absent data are never shown."""
    dataset, column = data.dataset, data.dataset.spec.names.index(source)
    shares = data.allocation.test.values()
    shown = np.unique(np.concatenate([share.samples[share.present[:, column]] for share in shares]))
    labels = dataset.strata()[shown]
    found = [shown[labels == label][:1] for label in range(min(len(dataset.spec.classes), MOST_ROWS))]
    return np.concatenate(found)


def save_grid(path: Path, columns: list[str], rows: list[str], images: NDArray[Any]) -> None:
    """Draw ``images`` [R, C, 3 (or 1), H, W], values 0 to 1, as a titled grid and save it as PNG under ``path``.

    The first column is the source and is set apart by a wider gap. A tile with NaN (no trained path leads to that
    modality) is drawn as an empty grey one.

    Raises:
        DataError: the titles do not fit the images, or the images have another shape; ``RunError`` where the file
            cannot be written.
    """
    expected = (len(rows), len(columns))
    if images.ndim != 5 or images.shape[:2] != expected or images.shape[2] not in (1, 3) or 0 in images.shape:
        raise DataError(f"reconstruction grid: expected images {[*expected, 3, 'H', 'W']}, found {list(images.shape)}")
    mosaic, across, down = _mosaic(images)
    fitted = [fill(name, max(8, mosaic.shape[1] // (7 * len(columns)))) for name in columns]
    _draw(path, mosaic, [*zip(across, fitted, strict=True)], [*zip(down, rows, strict=True)])


def _mosaic(images: NDArray[Any]) -> tuple[NDArray[np.float32], list[float], list[float]]:
    """One picture [height, width, 3] and the centres of its columns and rows, in pixels."""
    count_down, count_across, _, height, width = images.shape
    factor = max(1, -(-TILE // max(height, width)))
    tall, wide = height * factor, width * factor
    left = [c * (wide + GAP) + (2 * GAP if c else 0) for c in range(count_across)]
    top = [r * (tall + GAP) for r in range(count_down)]
    mosaic = np.full((top[-1] + tall, left[-1] + wide, 3), PAPER, dtype=np.float32)
    for r, y in enumerate(top):
        for c, x in enumerate(left):
            mosaic[y : y + tall, x : x + wide] = _tile(images[r, c], factor)
    return mosaic, [x + wide / 2 for x in left], [y + tall / 2 for y in top]


def _tile(image: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Image [1 or 3, H, W] as [H * factor, W * factor, 3] by repeating its pixels."""
    if not np.isfinite(image).all():
        image = np.full_like(image, EMPTY, dtype=np.float32)
    large = np.clip(image, 0, 1).transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
    return np.broadcast_to(large, (*large.shape[:2], 3)).astype(np.float32)


def _draw(
    path: Path, mosaic: NDArray[np.float32], columns: list[tuple[float, str]], rows: list[tuple[float, str]]
) -> None:
    """Draw one figure on its own canvas: pyplot would keep global state and choose a backend for the whole process."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = mosaic.shape[:2]
    left, top = 14 + 7 * max(len(name) for _, name in rows), 12 + 14 * max(name.count("\n") + 1 for _, name in columns)
    figure = Figure(figsize=((left + width + 8) / DPI, (top + height + 8) / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    total_width, total_height = left + width + 8, top + height + 8
    axes = figure.add_axes((left / total_width, 8 / total_height, width / total_width, height / total_height))
    axes.imshow(mosaic, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set_axis_off()
    style: dict[str, Any] = {"fontsize": 9, "color": "#333333", "parse_math": False, "clip_on": False}
    for x, name in columns:
        axes.text(x, -8, name, ha="center", va="bottom", **style)
    for y, name in rows:
        axes.text(-8, y, name, ha="right", va="center", **style)
    write_file(path, lambda part: figure.savefig(part, format="png", metadata={"Software": None}))

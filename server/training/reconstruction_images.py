"""The picture grid of cross-modal reconstructions that a run with generators over images leaves."""

from __future__ import annotations

import numpy as np
import torch

from fedrecon_core.data.allocation import ServerData
from fedrecon_core.inference import load_model
from fedrecon_core.types import DatasetSpec
from server.federation.registration import RunSites
from server.runs.directory import RunDirectory
from server.training.image_grid import save_grid

MOST_ROWS = 10
"""Rows of the grid: one source picture of each of the first ten classes; a sample with several is of the rarest."""


def draw_reconstructions(directory: RunDirectory, sites: RunSites) -> None:
    """Write ``reconstructions.png``: a source column, then one column per modality reconstructed from it.

    Recoveries without generators, data without two image modalities of one size, a test set that never shows their
    source, and data that stay at the sites leave no picture.
    """
    if sites.server_data is None:
        return
    dataset, spec = sites.server_data.dataset, sites.server_data.dataset.spec
    images = _alike(spec)
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


def _alike(spec: DatasetSpec) -> list[str]:
    """The image modalities that share a grid: the first one's shape, pixels as they are."""
    images = [m for m in spec.modalities if m.kind == "image" and m.scale == "none"]
    return [m.name for m in images if m.shape == images[0].shape]


def _one_per_class(data: ServerData, source: str) -> np.ndarray:
    """The first test sample of each class whose ``source`` some mask of the test shows: absent data stay unseen."""
    dataset, column = data.dataset, data.dataset.spec.names.index(source)
    shares = data.allocation.test.values()
    shown = np.unique(np.concatenate([share.samples[share.present[:, column]] for share in shares]))
    labels = dataset.strata()[shown]
    found = [shown[labels == label][:1] for label in range(min(len(dataset.spec.classes), MOST_ROWS))]
    return np.concatenate(found)

"""The picture grid of cross-modal reconstructions that a run with generators and images leaves."""

from __future__ import annotations

import numpy as np
import torch

from fedrecon_core.errors import FedReconError
from fedrecon_core.inference import load_model
from fedrecon_core.recovery.fedrecon import FedRecon
from fedrecon_core.state import mapping_group
from server.handshake import Started
from server.report.pictures import save_grid
from server.run_directory import RunDirectory

PER_CLASS_SOURCES = 10
"""Rows of the grid: one source picture of each of the first ten classes."""


def draw_reconstructions(directory: RunDirectory, started: Started) -> None:
    """Write ``reconstructions.png``: a source column, then one column per modality reconstructed from it.

    Only for recoveries with generators, over image modalities of one size; others leave no picture.
    """
    recovery, dataset = started.recovery, started.dataset
    images = [m.name for m in dataset.spec.modalities if m.kind == "image" and m.shape[0] in (1, 3)]
    if not isinstance(recovery, FedRecon) or not recovery.active or len(images) < 2:
        return
    model = load_model(directory.model)
    source = images[0]
    test = dataset.members(2)
    chosen = [test[dataset.labels[test] == label][:1] for label in range(min(len(dataset.spec.classes), PER_CLASS_SOURCES))]
    samples = np.concatenate(chosen)
    pixels = torch.from_numpy(np.ascontiguousarray(dataset.arrays[source][dataset.rows[source][samples]]))
    trained = [t for t in images if t == source or model.knowledge.trained.get(mapping_group(source, t), 0)]
    with torch.no_grad():
        made = [recovery.translate(model.groups, pixels, (source, target)) for target in trained]
    grid = torch.stack([pixels, *made], dim=1).clamp(0, 1).numpy()
    columns = [f"{source} (source)", *(f"-> {target}" for target in trained)]
    rows = [dataset.spec.classes[int(label)] for label in dataset.labels[samples]]
    save_grid(directory.path / "reconstructions.png", columns, rows, grid)

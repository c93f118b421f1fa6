"""Write the sites of a simulation as site folders, so that the same run can be deployed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml

from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import Share, allocate
from fedrecon_core.data.dataset import Dataset, load_dataset
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.errors import ConfigError, DataError, RunError
from fedrecon_core.files import replace_text
from fedrecon_core.registry import RECOVERIES


def write_sites(config: RunConfig, out: Path) -> Iterator[Path]:
    """Write ``out/<site>/`` for every site and ``out/federation.yaml``; yields each folder once it is complete.

    Held-out samples are written to the sites, as with ``evaluate.where: sites``, once per draw of masks. Absent data
    are not written. A run over the folders has the ``parameters_sha256`` of the simulation.
    """
    if RECOVERIES.get(config.recovery.name).reads_absent:
        raise ConfigError(f"recovery.name: {config.recovery.name} reads absent data, which no site folder contains")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "files in it" if out.is_dir() else "a file"
        raise DataError(f"--out {out}: expected a new or empty folder, found {found}; choose another one")
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"where": "sites"})})
    dataset = load_dataset(config)
    allocation = allocate(dataset, config)
    for name in sorted(allocation.train):
        shares = [allocation.train[name], allocation.validation[name], allocation.test[name]]
        write_folder(out / name, _content(dataset, shares))
        yield out / name
    path = out / "federation.yaml"
    try:
        replace_text(path, yaml.safe_dump(federation_config(config), sort_keys=False))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


def _content(dataset: Dataset, shares: list[Share]) -> FolderContent:
    """The present data of the site's samples, one split after the other."""
    parts = [open_site(dataset, s.samples, s.present, device=torch.device("cpu")) for s in shares]
    arrays, offsets = {}, {}
    for name in dataset.spec.names:
        pieces = [_rows(part, name) for part in parts]
        if any(len(piece) for rows in pieces for piece in rows):
            flat = [piece for rows in pieces for piece in rows]
            ragged = name in dataset.offsets
            arrays[name] = np.concatenate(flat) if ragged else np.stack(flat)
            if ragged:
                offsets[name] = np.concatenate([[0], np.cumsum([len(piece) for piece in flat])]).astype(np.int64)
    samples = Samples(
        ids=np.concatenate([part.ids.numpy() for part in parts]),
        labels=np.concatenate([part.labels.numpy() for part in parts]),
        split=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        cluster_ids=np.concatenate([part.cluster_ids.numpy() for part in parts]),
        natural_ids=np.concatenate([dataset.natural_ids[share.samples] for share in shares]),
        present=np.concatenate([part.present.numpy() for part in parts]),
    )
    return FolderContent(dataset.spec, samples, arrays, offsets, dataset.faults)


def _rows(part: SiteData, name: str) -> list[np.ndarray]:
    """The rows of the samples that have the modality, in the samples' order."""
    column = part.arrays[name]
    rows = column.rows[column.rows >= 0].tolist()
    values = column.values.numpy()
    if column.offsets is None:
        return [values[row] for row in rows]
    borders = column.offsets.tolist()
    return [values[borders[row] : borders[row + 1]] for row in rows]


def federation_config(config: RunConfig) -> dict[str, object]:
    """Config of the same run over the folders: no missingness is simulated, and sites that do not train have no
    training samples."""
    raw = config.model_dump(mode="json")
    del raw["sites"]["training"]
    return {**raw, "data": {"name": "sites", "root": "."}, "missing": {"empty": config.missing.empty}}

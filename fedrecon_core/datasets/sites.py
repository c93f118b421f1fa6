"""Data set ``sites``: a folder of site folders. In a simulation each folder is one site; in a deployment every site
opens its own folder, and the server opens none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import Dataset, DatasetLoader, IntArray, Stack
from fedrecon_core.data.site_folder.description import DESCRIPTION, SAMPLES
from fedrecon_core.data.site_folder.files import reading
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.site_folder.stamp import CHECKED
from fedrecon_core.errors import DataError
from fedrecon_core.registry import DATASETS
from fedrecon_core.types import SPLITS


class SitesParams(DataParams):
    """``root``: the folder of site folders."""


@DATASETS.register("sites")
class Sites(DatasetLoader):
    """Sites with their own data; the folders' names are the sites' names."""

    Params = SitesParams

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """All folders as one data set whose arrays stay on the disk. ``DataError`` if the folders do not agree."""
        if root is None:
            raise DataError("data.root: data set 'sites' expects a folder of site folders here, found none")
        opened = {folder.name: open_folder(folder) for folder in site_folders(root)}
        first = min(opened)
        for name, dataset in opened.items():
            if dataset.spec != opened[first].spec:
                raise DataError(
                    f"{root / name}: expected name, modalities and classes of {root / first}, found others; "
                    f"compare their {DESCRIPTION}"
                )
        for modality in opened[first].spec.names:
            if not any((dataset.rows[modality] >= 0).any() for dataset in opened.values()):
                raise DataError(f"{root}: expected a sample with modality '{modality}', found none at any site")
        return joined(opened)


def site_folders(root: Path) -> list[Path]:
    """The site folders in ``root``, sorted by name. ``DataError`` if there is none, and if a folder cannot be read or
    lacks its description: a site must not drop out of a federation silently."""
    found = []
    with reading(root):
        folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for path in folders:
        with reading(path):
            names = {entry.name for entry in path.iterdir()}
        if DESCRIPTION in names:
            found.append(path)
        elif {SAMPLES, CHECKED} & names:
            raise DataError(
                f"{path}: expected {DESCRIPTION} with the other files of a site, found none; restore it or remove the "
                "folder"
            )
    if not found and (root / DESCRIPTION).is_file():
        hint = "name the folder above it, or set data.name: folder"
        raise DataError(f"{root}: expected a folder of site folders, found a single site folder; {hint}")
    if not found:
        hint = "`fedrecon data import` and `fedrecon data split` create them"
        raise DataError(f"{root}: expected folders that contain a {DESCRIPTION}, found none; {hint}")
    return found


def joined(opened: dict[str, Dataset]) -> Dataset:
    """One data set of all sites, in the order of their names.

    If no id occurs at two sites, the sites share one numbering, because they were split or imported together. A group
    may then be at several sites but in one split only; ``DataError`` if it is in two, unless a site declares faults.
    Otherwise each site has numbered its samples independently: the same group or natural id at two sites refers to two
    different ones, so they are renumbered, site by site. Sample ids are not changed, because group and id together
    identify a sample.
    """
    names = sorted(opened)
    parts = [opened[name] for name in names]
    ragged = {name for part in parts for name in part.offsets}
    parts = [_with_offsets(part, ragged) for part in parts]
    spec = parts[0].spec
    faults = tuple(sorted({fault for part in parts for fault in part.faults}))
    ids = np.concatenate([np.unique(part.ids) for part in parts])
    own_numbering = len(np.unique(ids)) < len(ids)
    if not (own_numbering or faults):
        _check_groups_keep_their_split(names, parts)

    def column(name: str) -> IntArray:
        return np.concatenate([getattr(part, name) for part in parts])

    def numbered(name: str) -> IntArray:
        if not own_numbering:
            return column(name)
        numbers, count = [np.zeros(0, dtype=np.int64)], 0
        for part in parts:
            values, positions = np.unique(getattr(part, name), return_inverse=True)
            numbers.append(count + positions)
            count += len(values)
        return np.concatenate(numbers)

    def joined_rows(modality: str) -> IntArray:
        counts = [int((part.rows[modality] >= 0).sum()) for part in parts]
        starts = np.cumsum([0, *counts[:-1]])
        rows = [part.rows[modality] for part in parts]
        return np.concatenate([np.where(own >= 0, own + start, -1) for own, start in zip(rows, starts, strict=True)])

    def joined_offsets(modality: str) -> IntArray:
        lengths = np.concatenate([np.diff(part.offsets[modality]) for part in parts])
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    return Dataset(
        spec=spec,
        labels=column("labels"),
        ids=column("ids"),
        split=column("split"),
        cluster_ids=numbered("cluster_ids"),
        natural_ids=numbered("natural_ids"),
        arrays={m: Stack([part.arrays[m] for part in parts]) for m in spec.names},
        rows={m: joined_rows(m) for m in spec.names},
        offsets={m: joined_offsets(m) for m in spec.names if m in ragged},
        sites=tuple(names),
        owner=np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts]),
        faults=faults,
    )


def _with_offsets(part: Dataset, names: set[str]) -> Dataset:
    """``part`` with offsets for the modalities ``names``: sequences that are equally long at this site are concatenated
    in time, as at the other sites."""
    arrays, offsets = dict(part.arrays), dict(part.offsets)
    for name in names - {*part.offsets}:
        rows, steps, features = arrays[name].shape
        arrays[name] = np.asarray(arrays[name]).reshape(rows * steps, features)
        offsets[name] = np.arange(rows + 1, dtype=np.int64) * steps
    return replace(part, arrays=arrays, offsets=offsets)


def _check_groups_keep_their_split(names: list[str], parts: list[Dataset]) -> None:
    """Raise ``DataError`` if a group is in different splits at two sites."""
    pairs = [np.unique(np.stack([part.cluster_ids, part.split]), axis=1) for part in parts]
    site = np.repeat(np.arange(len(parts)), [found.shape[1] for found in pairs])
    groups, split = np.concatenate(pairs, axis=1)
    order = np.lexsort((site, groups))
    groups, split, site = groups[order], split[order], site[order]
    torn = np.flatnonzero((groups[1:] == groups[:-1]) & (split[1:] != split[:-1]))
    if len(torn):
        here, there = (f"{SPLITS[split[at]]} at {names[site[at]]}" for at in (torn[0], torn[0] + 1))
        raise DataError(
            f"site folders: expected each group in one split, found group {groups[torn[0]]} in {here} and in {there}, "
            "which leaks held-out data into training. Import all sites from one table (site:), which keeps groups "
            "whole; if each site numbers groups independently, import without id:, so that repeated ids show this"
        )

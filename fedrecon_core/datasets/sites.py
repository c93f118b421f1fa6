"""Data set ``sites``: a folder of site folders. In a simulation each folder is one site; in a deployment every site
opens its own, and the server none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
        """All folders as one data set whose arrays stay on the disk. ``DataError`` where folders do not agree."""
        if root is None:
            raise DataError("data.root: data set 'sites' expects a folder of site folders here, found none")
        opened = {folder.name: open_folder(folder) for folder in site_folders(root)}
        _agree(opened, root)
        return joined(opened)


def site_folders(root: Path) -> list[Path]:
    """The site folders in ``root``, sorted by name; ``DataError`` without any, and where one cannot be read or has lost
    its description: a site must not drop out of a federation in silence."""
    with reading(root):
        found = sorted(path for path in root.iterdir() if _is_site(path)) if root.is_dir() else []
    if not found and (root / DESCRIPTION).is_file():
        found_one = "found one of them; name the folder above it, or set data.name: folder"
        raise DataError(f"{root}: expected a folder of site folders, {found_one}")
    if not found:
        told_how = "`fedrecon data import` and `fedrecon data split` make some"
        raise DataError(f"{root}: expected folders that hold a {DESCRIPTION}, found none; {told_how}")
    return found


def _is_site(path: Path) -> bool:
    """Whether ``path`` is meant to be a site folder."""
    if not path.is_dir():
        return False
    with reading(path):
        names = {entry.name for entry in path.iterdir()}
    if DESCRIPTION not in names and {SAMPLES, CHECKED} & names:
        raise DataError(
            f"{path}: expected {DESCRIPTION} beside the files of a site, found none; restore it or remove the folder"
        )
    return DESCRIPTION in names


def _agree(opened: dict[str, Dataset], root: Path) -> None:
    first = min(opened)
    for name, dataset in opened.items():
        if dataset.spec != opened[first].spec:
            raise DataError(
                f"{root / name}: expected name, modalities and classes of {root / first}, found others; "
                f"compare their {DESCRIPTION}"
            )
    for modality in opened[first].spec.names:
        if not any((dataset.rows[modality] >= 0).any() for dataset in opened.values()):
            raise DataError(f"{root}: expected some sample with modality '{modality}', found none at any site")


def joined(opened: dict[str, Dataset]) -> Dataset:
    """One data set over the sites' own, in the order of their names.

    Where no id lies at two sites, the sites share one numbering (they were split or imported together), and a group may
    lie at several of them, in one split: ``DataError`` where it lies in two, unless a site's protocol has faults. Else
    each site has numbered for itself: the same group at two sites is two, and so are natural ids, which are numbered
    anew, site after site. Ids stay the sites' own: beside the group an id says which sample it is.
    """
    names = sorted(opened)
    parts = _alike([opened[name] for name in names])
    spec = parts[0].spec
    faults = tuple(sorted({fault for part in parts for fault in part.faults}))
    apart = _numbered_apart(parts)
    if not (apart or faults):
        _refuse_torn(names, parts)

    def column(name: str) -> IntArray:
        return np.concatenate([getattr(part, name) for part in parts])

    def numbered(name: str) -> IntArray:
        return _renumbered([getattr(part, name) for part in parts]) if apart else column(name)

    return Dataset(
        spec=spec,
        labels=column("labels"),
        ids=column("ids"),
        split=column("split"),
        cluster_ids=numbered("cluster_ids"),
        arrays={m: Stack([part.arrays[m] for part in parts]) for m in spec.names},
        rows={m: _rows(parts, m) for m in spec.names},
        offsets={m: _offsets(parts, m) for m in parts[0].offsets},
        sites=tuple(sorted(opened)),
        owner=np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts]),
        natural_ids=numbered("natural_ids"),
        faults=faults,
    )


def _numbered_apart(parts: list[Dataset]) -> bool:
    """Whether some id lies at two sites. At one site an id may stand several times: a test sample under each mask."""
    ids = np.concatenate([np.unique(part.ids) for part in parts])
    return len(np.unique(ids)) < len(ids)


def _renumbered(parts: list[IntArray]) -> IntArray:
    """int64 [N]: numbers that no two sites share, from 0 in the order of the sites and of their own numbers."""
    found, count = [np.zeros(0, dtype=np.int64)], 0
    for values in parts:
        known, places = np.unique(values, return_inverse=True)
        found.append(count + places)
        count += len(known)
    return np.concatenate(found)


def _refuse_torn(names: list[str], parts: list[Dataset]) -> None:
    """``DataError`` where a group lies in one split at one site and in another one at another site."""
    found = [np.unique(np.stack([part.cluster_ids, part.split]), axis=1) for part in parts]
    site = np.repeat(np.arange(len(parts)), [pairs.shape[1] for pairs in found])
    groups, split = np.concatenate(found, axis=1)
    order = np.lexsort((site, groups))
    groups, split, site = groups[order], split[order], site[order]
    torn = np.flatnonzero((groups[1:] == groups[:-1]) & (split[1:] != split[:-1]))
    if len(torn):
        here, there = (f"{SPLITS[split[at]]} at {names[site[at]]}" for at in (torn[0], torn[0] + 1))
        raise DataError(
            f"site folders: expected each group in one split, found group {groups[torn[0]]} in {here} and in {there}; "
            "that leaks. Import all sites from one table (site:), which deals whole groups; where each site numbers "
            "groups for itself, import without id:, so that the sites' ids show it"
        )


def _alike(parts: list[Dataset]) -> list[Dataset]:
    """``parts`` with borders at every site where a modality has some at one: elsewhere all sequences were equally long,
    and their array is read as if it were concatenated in time."""
    ragged = {name for part in parts for name in part.offsets}
    return [replace(part, **_concatenated(part, ragged - {*part.offsets})) for part in parts]


def _concatenated(part: Dataset, names: set[str]) -> dict[str, Any]:
    arrays, offsets = dict(part.arrays), dict(part.offsets)
    for name in names:
        rows, steps, features = arrays[name].shape
        arrays[name] = np.asarray(arrays[name]).reshape(rows * steps, features)
        offsets[name] = np.arange(rows + 1, dtype=np.int64) * steps
    return {"arrays": arrays, "offsets": offsets}


def _rows(parts: list[Dataset], modality: str) -> IntArray:
    counts = [int((part.rows[modality] >= 0).sum()) for part in parts]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    pieces = [part.rows[modality] for part in parts]
    return np.concatenate([np.where(rows >= 0, rows + s, -1) for rows, s in zip(pieces, starts, strict=True)])


def _offsets(parts: list[Dataset], modality: str) -> IntArray:
    lengths = [np.diff(part.offsets[modality]) for part in parts]
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)

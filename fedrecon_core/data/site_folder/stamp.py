"""What a check leaves in ``.checked/``: word that the files were found right, and the table of samples, mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.description import ARRAYS, DESCRIPTION, LONGEST, SAMPLES
from fedrecon_core.data.site_folder.files import map_array, named, names_in, read_start, save_array, size_and_time
from fedrecon_core.data.site_folder.samples import Samples, rows_of
from fedrecon_core.errors import DataError
from fedrecon_core.files import remove_leftovers, replace_file, replace_text
from fedrecon_core.types import DatasetSpec

CHECKED = ".checked"
STAMP, TABLE = f"{CHECKED}/stamp.json", f"{CHECKED}/samples.npy"

State = dict[str, list[int]]
"""File -> size and time of its last change; nothing where it is no plain file."""


def state_of(folder: Path) -> State:
    """The data files as they are now, whatever lies in ``arrays`` among them."""
    found = {name: size_and_time(folder, name) for name in (SAMPLES, *names_in(folder, ARRAYS))}
    return {name: state for name, state in found.items() if state or name != SAMPLES}


def stamp(folder: Path, samples: Samples, state: State | None = None) -> None:
    """Leave word that the files, as they were in ``state`` (else as they are now), were read and found right. The stamp
    comes last: until it is there, the folder counts as it did before."""
    checked, table = folder / CHECKED, _stacked(samples)
    if checked.is_symlink() or (checked.exists() and not checked.is_dir()):
        checked.unlink()
    checked.mkdir(exist_ok=True)
    remove_leftovers(checked)
    if not _holds(folder, table):  # a check that breaks off leaves a folder that opens as it was
        replace_file(folder / TABLE, lambda partial: save_array(partial, table))
    replace_text(folder / STAMP, json.dumps(_seen(folder, state_of(folder) if state is None else state), indent=1))


def _holds(folder: Path, table: IntArray) -> bool:
    """Whether an earlier check left the same table."""
    try:
        return np.array_equal(map_array(folder, TABLE, np.int64, table.shape), table)
    except DataError:
        return False


def _seen(folder: Path, state: State) -> dict[str, Any]:
    """What a stamp holds: the state of the data files, what ``dataset.yaml`` is, and the state of the table beside
    it."""
    digest = hashlib.sha256(read_start(folder, DESCRIPTION, LONGEST)).hexdigest()
    return {DESCRIPTION: digest, "files": state, TABLE: size_and_time(folder, TABLE)}


def _stacked(samples: Samples) -> IntArray:
    """int64 [4 + M + 1 (multilabel: C), N]: a row per column of the table. A modality's holds the sample's row in its
    array or -1; the labels of a multilabel set fill theirs sample by sample, so that they are mapped as they are used.
    """
    singles = (samples.ids, samples.split, samples.cluster_ids, samples.natural_ids)
    across = samples.labels.shape[1:] or (1,)
    labels = np.ascontiguousarray(samples.labels).reshape(*across, len(samples.ids))
    return np.concatenate([np.stack([*singles, *rows_of(samples.present)]), labels])


def stamped(folder: Path, spec: DatasetSpec, state: State) -> IntArray:
    """The table of samples as it was checked (``_stacked``), mapped."""
    todo = f"run `fedrecon data check {named(folder)}`"
    width = 4 + len(spec.names) + (1 if spec.target == "multiclass" else len(spec.classes))
    try:
        known: Any = json.loads(read_start(folder, STAMP, LONGEST))
        then, now = known["files"], _seen(folder, state)
        changed = sorted(name for name in {*then, *state} if then.get(name) != state.get(name))
        changed += [DESCRIPTION] if known[DESCRIPTION] != now[DESCRIPTION] else []
        whole = known[TABLE] == now[TABLE]
    except (DataError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{named(folder)} has not been checked; {todo}") from None
    if changed:
        raise DataError(f"{named(folder)} changed since it was checked ({_few(changed)}); {todo}")
    try:
        table = map_array(folder, TABLE, np.int64, (width, None)) if whole else None
    except DataError:
        table = None
    if table is None:
        raise DataError(f"{named(folder)} has not been checked (what a check left there is damaged); {todo}")
    return np.asarray(table)


def _few(names: Iterable[str]) -> str:
    known = [*names]
    return named(", ".join(known[:5]) + (f", {len(known) - 5} more" if len(known) > 5 else ""))

"""The stamp of a check in ``.checked/``: the state of the checked files, and the table of samples as an array."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.description import ARRAYS, DESCRIPTION, LONGEST, SAMPLES
from fedrecon_core.data.site_folder.files import map_array, names_in, printable, read_bytes, save_array, size_and_time
from fedrecon_core.data.site_folder.samples import Samples, rows_of
from fedrecon_core.errors import DataError
from fedrecon_core.files import remove_leftovers, replace_file, replace_text
from fedrecon_core.types import DatasetSpec

CHECKED = ".checked"
STAMP, TABLE = f"{CHECKED}/stamp.json", f"{CHECKED}/samples.npy"

FolderState = dict[str, list[int]]
"""File -> size and time of its last change; empty for anything but a regular file."""


def folder_state(folder: Path) -> FolderState:
    """The state of the data files: ``samples.parquet`` if it exists, and all entries of ``arrays``."""
    found = {name: size_and_time(folder, name) for name in (SAMPLES, *names_in(folder, ARRAYS))}
    return {name: state for name, state in found.items() if state or name != SAMPLES}


def write_stamp(folder: Path, samples: Samples, state: FolderState | None = None) -> None:
    """Record that the files in ``state`` (default: their present state) were read and are correct.

    The table is int64 [4 + M + 1 (multilabel: C), N]: ids, split, cluster ids, natural ids, per modality the sample's
    row in the array or -1, then the labels. Multilabel labels are stored sample by sample, the order in which they are
    used. The stamp is written last, so that an interrupted check leaves the folder as it was.
    """
    singles = (samples.ids, samples.split, samples.cluster_ids, samples.natural_ids)
    across = samples.labels.shape[1:] or (1,)
    labels = np.ascontiguousarray(samples.labels).reshape(*across, len(samples.ids))
    table = np.concatenate([np.stack([*singles, *rows_of(samples.present)]), labels])
    checked = folder / CHECKED
    if checked.is_symlink() or (checked.exists() and not checked.is_dir()):
        checked.unlink()
    checked.mkdir(exist_ok=True)
    remove_leftovers(checked)
    try:
        unchanged = np.array_equal(map_array(folder, TABLE, np.int64, table.shape), table)
    except DataError:
        unchanged = False
    if not unchanged:  # an identical table is kept, so that an older stamp stays valid until the new one is written
        replace_file(folder / TABLE, lambda partial: save_array(partial, table))
    state = folder_state(folder) if state is None else state
    replace_text(folder / STAMP, json.dumps(_stamp_content(folder, state), indent=1))


def _stamp_content(folder: Path, state: FolderState) -> dict[str, Any]:
    digest = hashlib.sha256(read_bytes(folder, DESCRIPTION, LONGEST)).hexdigest()
    return {DESCRIPTION: digest, "files": state, TABLE: size_and_time(folder, TABLE)}


def read_stamp(folder: Path, spec: DatasetSpec, state: FolderState) -> IntArray:
    """Map the checked table of samples (see ``write_stamp``); ``DataError`` if the files have changed since."""
    hint = f"run `fedrecon data check {printable(folder)}`"
    try:
        known: Any = json.loads(read_bytes(folder, STAMP, LONGEST))
        then, now = known["files"], _stamp_content(folder, state)
        changed = sorted(name for name in {*then, *state} if then.get(name) != state.get(name))
        changed += [DESCRIPTION] if known[DESCRIPTION] != now[DESCRIPTION] else []
        table_unchanged = known[TABLE] == now[TABLE]
    except (DataError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{printable(folder)} has not been checked; {hint}") from None
    if changed:
        names = ", ".join(changed[:5]) + (f", {len(changed) - 5} more" if len(changed) > 5 else "")
        raise DataError(f"{printable(folder)} changed since it was checked ({printable(names)}); {hint}")
    width = 4 + len(spec.names) + (1 if spec.target == "multiclass" else len(spec.classes))
    try:
        if table_unchanged:
            return np.asarray(map_array(folder, TABLE, np.int64, (width, None)))
    except DataError:
        pass
    raise DataError(f"{printable(folder)} has not been checked (the result of the last check is damaged); {hint}")

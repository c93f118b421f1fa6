"""The check of a site folder: every fault in one line that says what was expected, what was found, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedrecon_core.data.site_folder.arrays import array_faults
from fedrecon_core.data.site_folder.description import (
    ARRAYS,
    DESCRIPTION,
    SAMPLES,
    Description,
    file_names,
    read_description,
)
from fedrecon_core.data.site_folder.files import names_in, printable, short_line
from fedrecon_core.data.site_folder.samples import Samples, read_samples, rows_of, sample_faults
from fedrecon_core.data.site_folder.stamp import FolderState, folder_state, write_stamp
from fedrecon_core.data.site_folder.write import record_of, seal
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.files import reason
from fedrecon_core.registry import MODALITIES, discover

RESTORE = "restore it, or accept all files as they are with `fedrecon data seal`"


def check_folder(folder: Path) -> list[str]:
    """Return every fault of the folder. If there is none, write a stamp, which allows the folder to be opened."""
    try:
        description, before = read_description(folder), folder_state(folder)
        faults = [*_changes_since_seal(folder, description)]
        samples, found = _read_content(folder, description)
        faults += found
        return faults or _write_stamp(folder, samples, before)
    except DataError as error:
        return [str(error)]


def seal_folder(folder: Path) -> list[str]:
    """Check the content of the folder and return its faults. If there is none, record size and SHA-256 of every file in
    ``dataset.yaml`` and write a stamp; otherwise ``dataset.yaml`` is not changed."""
    try:
        description, before = read_description(folder), folder_state(folder)
        samples, faults = _read_content(folder, description)
        if faults or folder_state(folder) != before:
            return faults or [_changed_meanwhile(folder)]
        seal(folder, description.spec, description.draws, description.faults)
        return _write_stamp(folder, samples, before)
    except DataError as error:
        return [str(error)]
    except OSError as error:
        return [f"{printable(folder)} cannot be sealed: {reason(error)}; {DESCRIPTION} was not changed"]


def _write_stamp(folder: Path, samples: Samples | None, before: FolderState) -> list[str]:
    """Write the stamp, unless the files have changed since ``before``; return the fault."""
    assert samples is not None
    if folder_state(folder) != before:
        return [_changed_meanwhile(folder)]
    try:
        write_stamp(folder, samples, before)
    except OSError as error:
        return [f"{printable(folder)}: the result of the check cannot be written: {reason(error)}; make it writable"]
    return []


def _changed_meanwhile(folder: Path) -> str:
    return f"{printable(folder)} changed while it was read; check it again when no program writes to it"


def _changes_since_seal(folder: Path, description: Description) -> Iterator[str]:
    """Differences between the files and the record of them in ``dataset.yaml``."""
    path, known = printable(folder / DESCRIPTION), file_names(description.spec)
    if description.spec_sha256 not in (None, description.spec.digest()):
        yield (
            f"{path}: the specification (name, modalities, classes, target) is not the one that was sealed; {RESTORE}"
        )
    unknown = [name for name in description.files if name not in known]
    if unknown:
        more = f" and {len(unknown) - 3} more" if unknown[3:] else ""
        found = short_line(", ".join(map(repr, unknown[:3])) + more)
        yield f"{path}: files: expected {SAMPLES} and arrays of the modalities in this folder, found {found}; remove it"
    for name in known:
        path, record = printable(folder / name), description.files.get(name)
        if not os.path.lexists(folder / name):
            if record is not None:
                yield f"{path}: expected a file of {record.bytes} bytes, found none; restore it"
            continue
        if record is None:
            yield f"{path}: expected its size and SHA-256 under files in {DESCRIPTION}, found none; {RESTORE}"
            continue
        try:
            now = record_of(folder, name)
        except DataError as error:
            yield str(error)
            continue
        if now != record:
            expected = f"expected {record.bytes} bytes with SHA-256 {record.sha256[:12]}..."
            yield f"{path}: {expected}, found {now.bytes} bytes with {now.sha256[:12]}...; {RESTORE}"


def _read_content(folder: Path, description: Description) -> tuple[Samples | None, list[str]]:
    """The table of samples, and every fault of specification, table and arrays, whether sealed or not."""
    spec = description.spec
    samples, faults = read_samples(folder, spec)
    discover(("fedrecon_core.modalities",))
    for index, modality in enumerate(spec.modalities):
        where = f"{printable(folder / DESCRIPTION)}: modalities.{index}"
        if (fault := kind_fault(modality.kind)) is not None:
            faults.append(short_line(f"{where}.kind: {fault}"))
        elif (fault := shape_fault(modality.kind, modality.shape)) is not None:
            faults.append(short_line(f"{where}.shape: {fault}"))
    unknown = sorted({*names_in(folder, ARRAYS)} - {*file_names(spec)})  # of a renamed modality, or a copy
    for name in unknown[:10]:
        known = short_line(", ".join(spec.names))
        faults.append(
            f"{printable(folder / name)}: expected only arrays of modalities ({known}), found a file of another name; "
            "remove it"
        )
    if unknown[10:]:
        faults.append(
            f"{printable(folder / ARRAYS)}: expected only arrays of modalities, found {len(unknown) - 10} more files"
        )
    if samples is None:
        return None, faults
    faults += sample_faults(folder / SAMPLES, samples, description.draws, description.faults)
    for modality, rows in zip(spec.modalities, rows_of(samples.present), strict=True):
        faults += array_faults(folder, modality, rows, samples.ids)
    return samples, faults


def shape_fault(kind: str, shape: tuple[int, ...]) -> str | None:
    """The reason why ``shape``, of one sample, does not fit a modality of ``kind``; None if it does.

    Raises ``ConfigError`` for an unknown kind.
    """
    axes: tuple[str, ...] = MODALITIES.get(kind).axes
    if 0 in shape or not shape or (axes and len(axes) != len(shape)):
        expected = f"[{', '.join(axes or ('...',))}] ({kind}), none of them 0"
        return f"expected {expected}, found [{', '.join(map(str, shape))}]"
    return None


def kind_fault(kind: str) -> str | None:
    """The reason why ``kind`` is not the name of a modality kind; None if it is."""
    try:
        MODALITIES.get(kind)
    except ConfigError as error:
        return str(error)
    return None

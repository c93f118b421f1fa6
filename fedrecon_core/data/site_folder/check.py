"""Everything that can be wrong with a site folder, each in one line: what was expected, what was found, what to do."""

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
from fedrecon_core.data.site_folder.files import as_line, named, names_in
from fedrecon_core.data.site_folder.samples import Samples, read_samples, rows_of, sample_faults
from fedrecon_core.data.site_folder.stamp import State, stamp, state_of
from fedrecon_core.data.site_folder.write import record_of, seal
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.files import reason
from fedrecon_core.registry import MODALITIES, discover
from fedrecon_core.types import DatasetSpec

RESTORE = "restore it, or take all files as they are with `fedrecon data seal`"


def check_folder(folder: Path) -> list[str]:
    """Every fault of the folder. Without any, a stamp is left, and the folder can be opened."""
    try:
        description, before = read_description(folder), state_of(folder)
        faults = [*_seal_faults(folder, description)]
        samples, found = _content(folder, description)
        faults += found
        return faults or _stamped(folder, samples, before)
    except DataError as error:
        return [str(error)]


def seal_folder(folder: Path) -> list[str]:
    """Read everything as a check does and, where it is right, put size and SHA-256 of every file as it is into
    ``dataset.yaml``, and leave a stamp. With a fault ``dataset.yaml`` is as it was."""
    try:
        description, before = read_description(folder), state_of(folder)
        samples, faults = _content(folder, description)
        if faults or state_of(folder) != before:
            return faults or [_moved(folder)]
        seal(folder, description.spec, description.draws, description.faults)
        return _stamped(folder, samples, before)
    except DataError as error:
        return [str(error)]
    except OSError as error:
        return [f"{named(folder)} cannot be sealed: {reason(error)}; {DESCRIPTION} is as it was"]


def _stamped(folder: Path, samples: Samples | None, before: State) -> list[str]:
    """Leave the stamp of files that were right, unless they are others by now."""
    assert samples is not None
    if state_of(folder) != before:
        return [_moved(folder)]
    try:
        stamp(folder, samples, before)
    except OSError as error:
        found = f"the result of the check cannot be left there: {reason(error)}"
        return [f"{named(folder)}: {found}; make it writable"]
    return []


def _moved(folder: Path) -> str:
    return f"{named(folder)} changed while it was read; check it again when nothing writes to it"


def _seal_faults(folder: Path, description: Description) -> Iterator[str]:
    """What is not as it was when the folder was sealed."""
    path, known = named(folder / DESCRIPTION), file_names(description.spec)
    if description.spec_sha256 not in (None, description.spec.digest()):
        yield (
            f"{path}: the specification (name, modalities, classes, target) is not the one that was sealed; {RESTORE}"
        )
    strange = [name for name in description.files if name not in known]
    if strange:
        found = as_line(", ".join(map(repr, strange[:3])) + (f" and {len(strange) - 3} more" if strange[3:] else ""))
        yield f"{path}: files: expected {SAMPLES} and arrays of the modalities in this folder, found {found}; remove it"
    for name in known:
        yield from _record_faults(folder, name, description)


def _record_faults(folder: Path, name: str, description: Description) -> Iterator[str]:
    path, known = named(folder / name), description.files.get(name)
    if not os.path.lexists(folder / name):
        if known is not None:
            yield f"{path}: expected a file of {known.bytes} bytes, found none; restore it"
        return
    if known is None:
        yield f"{path}: expected its size and SHA-256 under files in {DESCRIPTION}, found none; {RESTORE}"
        return
    try:
        found = record_of(folder, name)
    except DataError as error:
        yield str(error)
        return
    if found != known:
        expected = f"expected {known.bytes} bytes with SHA-256 {known.sha256[:12]}..."
        yield f"{path}: {expected}, found {found.bytes} bytes with {found.sha256[:12]}...; {RESTORE}"


# --- what the files say, whatever was sealed ------------------------------------------------------------------------


def _content(folder: Path, description: Description) -> tuple[Samples | None, list[str]]:
    """The table of samples, and everything that is wrong with the folder whether or not it is as it was sealed."""
    spec = description.spec
    samples, faults = read_samples(folder, spec)
    faults += [*_spec_faults(folder, spec), *_strays(folder, spec)]
    if samples is None:
        return None, faults
    faults += sample_faults(folder / SAMPLES, samples, description.draws, description.faults)
    for modality, rows in zip(spec.modalities, rows_of(samples.present), strict=True):
        faults += array_faults(folder, modality, rows, samples.ids)
    return samples, faults


def _spec_faults(folder: Path, spec: DatasetSpec) -> Iterator[str]:
    discover(("fedrecon_core.modalities",))
    for index, modality in enumerate(spec.modalities):
        where = f"{named(folder / DESCRIPTION)}: modalities.{index}"
        if (fault := kind_fault(modality.kind)) is not None:
            yield as_line(f"{where}.kind: {fault}")
        elif (fault := shape_fault(modality.kind, modality.shape)) is not None:
            yield as_line(f"{where}.shape: {fault}")


def _strays(folder: Path, spec: DatasetSpec) -> Iterator[str]:
    """Files beside the arrays that belong to none: a modality that was renamed, or a copy that someone left."""
    strange = sorted({*names_in(folder, "arrays")} - {*file_names(spec)})
    for name in strange[:10]:
        known = as_line(", ".join(spec.names))
        yield f"{named(folder / name)}: expected only arrays of modalities, found none so called ({known}); remove it"
    if strange[10:]:
        yield f"{named(folder / ARRAYS)}: expected only arrays of modalities, found {len(strange) - 10} more files"


def shape_fault(kind: str, shape: tuple[int, ...]) -> str | None:
    """What is wrong with ``shape``, one sample's, for a modality of ``kind``; None if it fits.

    Raises ``ConfigError`` for an unknown kind.
    """
    axes: tuple[str, ...] = MODALITIES.get(kind).axes
    if 0 in shape or not shape or (axes and len(axes) != len(shape)):
        expected = f"[{', '.join(axes or ('...',))}] ({kind}), none of them 0"
        return f"expected {expected}, found [{', '.join(map(str, shape))}]"
    return None


def kind_fault(kind: str) -> str | None:
    """What is wrong with the name of a kind; None if there is such a kind."""
    try:
        MODALITIES.get(kind)
    except ConfigError as error:
        return str(error)
    return None

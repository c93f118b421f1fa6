"""Writing site folders from raw data in blocks, so that memory stays small and an interruption loses one block."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import ValidationError

from fedrecon_core.config.errors import explain
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.description import DESCRIPTION, SAMPLES, Description, array_file, offsets_file
from fedrecon_core.data.site_folder.files import save_array
from fedrecon_core.data.site_folder.samples import write_samples
from fedrecon_core.data.site_folder.stamp import write_stamp
from fedrecon_core.data.site_folder.write import seal
from fedrecon_core.errors import DataError
from fedrecon_core.files import reason, remove_leftovers, replace_file, replace_text
from fedrecon_core.preparation.raw_dataset import FloatArray, RawDataset

WORK = ".preparing"
"""Folder of the finished blocks, inside the folder that is written, until all blocks are done."""
BLOCK = 64
"""Maximum number of samples that are read together: the batch of a feature extractor."""
MOST_BYTES = 64 << 20
"""Maximum number of bytes of the rows that are read together, unless a single row is larger."""
BLOCK_BYTES, MOST_BLOCKS = 4 << 20, 16
"""Blocks of small rows share a file, because each file is synced to the disk: up to these numbers of bytes and blocks.
"""
OWNER = "recipe"
"""File in ``WORK`` with the digest of the raw data sets that are being written."""

DAMAGED = (OSError, ValueError, KeyError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile)
"""Exceptions for a block that an interrupted attempt left incomplete."""

Progress = Callable[[str, int, int], None]
"""Called with a modality, the rows that are done (over all sites), and the total number of rows."""


@dataclass
class _Progress:
    """Adds up the rows of all sites for ``show``."""

    show: Progress
    totals: Mapping[str, int]
    done: dict[str, int] = field(default_factory=dict)

    def add(self, modality: str, rows: int) -> None:
        """Report that ``rows`` more rows of ``modality`` are done."""
        self.done[modality] = self.done.get(modality, 0) + rows
        self.show(modality, self.done[modality], self.totals[modality])


class _ModalityWriter:
    """Writes one modality of a site folder: the rows as block files in ``work``, then one array of all blocks."""

    def __init__(self, raw_data: RawDataset, modality: str, work: Path) -> None:
        self.raw_data, self.modality, self.work = raw_data, modality, work
        self.row_shape, self.ragged = raw_data.spec[modality].shape, modality in raw_data.ragged
        column = raw_data.spec.names.index(modality)
        self.samples = np.flatnonzero(raw_data.samples.present[:, column]).astype(np.int64)
        row_bytes = 4 * prod(self.row_shape)
        self.together = max(1, min(BLOCK, MOST_BYTES // row_bytes))
        per_file = self.together * min(max(BLOCK_BYTES // (self.together * row_bytes), 1), MOST_BLOCKS)
        self.files: dict[Path, IntArray] = {
            work / f"{modality}.{number:06d}.npz": self.samples[start : start + per_file]
            for number, start in enumerate(range(0, len(self.samples), per_file))
        }

    def write(self, folder: Path, progress: _Progress) -> None:
        """Write the modality's array and, for sequences, its offsets. Blocks of an earlier attempt are reused."""
        joined = self.work / f"{self.modality}.joined"
        if joined.exists() or not len(self.samples):
            progress.add(self.modality, len(self.samples))
            return
        for file, samples in self.files.items():
            try:
                found, rows = _load_block(file, "lengths"), _load_block(file, "rows")
                complete = len(found) == len(samples) and len(rows) in (len(samples), int(found.sum()))
            except DAMAGED:  # missing, or damaged: it is written again
                complete = False
            if complete:
                progress.add(self.modality, len(samples))
            else:
                self.write_block(file, samples, progress)
        lengths = np.concatenate([_load_block(file, "lengths") for file in self.files])

        def join(path: Path) -> None:
            with path.open("wb") as file:
                _write_header(file, self.array_shape(lengths))
                for block in self.files:
                    file.write(np.ascontiguousarray(_load_block(block, "rows")).data)

        replace_file(folder / array_file(self.modality), join)
        if self.ragged:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            replace_file(folder / offsets_file(self.modality), lambda partial: save_array(partial, offsets))
        replace_text(joined, "")
        for file in self.files:
            file.unlink()

    def array_shape(self, lengths: IntArray) -> tuple[int, ...]:
        """The shape of an array of rows with ``lengths`` (int64 [R])."""
        return (int(lengths.sum()), *self.row_shape[1:]) if self.ragged else (len(lengths), *self.row_shape)

    def write_block(self, file: Path, samples: IntArray, progress: _Progress) -> None:
        """Read the rows of ``samples`` and write them to ``file`` as ``np.savez`` does, but row by row: a single array
        would need the memory twice."""
        rows: list[FloatArray] = []
        for start in range(0, len(samples), self.together):
            chosen = samples[start : start + self.together]
            found = zip(chosen.tolist(), self.raw_data.rows[self.modality](chosen), strict=True)
            rows += [self.checked(sample, row) for sample, row in found]
            progress.add(self.modality, len(chosen))
        lengths = np.array([len(row) for row in rows], dtype=np.int64)

        def save(path: Path) -> None:
            with zipfile.ZipFile(path, "w") as block:
                with block.open("rows.npy", "w", force_zip64=True) as part:
                    _write_header(part, self.array_shape(lengths))
                    for row in rows:
                        part.write(np.ascontiguousarray(row, dtype="<f4").data)
                with block.open("lengths.npy", "w") as part:
                    np.lib.format.write_array(part, lengths)

        replace_file(file, save)

    def checked(self, sample: int, row: FloatArray) -> FloatArray:
        """The row in float32; ``DataError`` if its shape does not fit the modality or a number is not finite."""
        shape, where = self.row_shape, f"{self.raw_data.name_of(sample)}: {self.modality}"
        steps = 1 <= row.shape[0] <= shape[0] if self.ragged and row.ndim else row.shape[:1] == shape[:1]
        if not steps or row.shape[1:] != shape[1:]:
            expected = f"1 to {shape[0]} steps of {list(shape[1:])}" if self.ragged else f"{list(shape)}"
            raise DataError(f"{where}: expected {expected}, found {list(row.shape)}")
        with np.errstate(over="ignore"):
            row = row.astype(np.float32, copy=False)
        if not np.isfinite(row).all():
            raise DataError(
                f"{where}: expected finite numbers, found NaN or infinity; leave the file out where the modality is "
                "missing"
            )
        return row


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _load_block(path: Path, key: str) -> FloatArray | IntArray:
    with np.load(path, allow_pickle=False) as block:
        found: FloatArray | IntArray = block[key]
        return found


def write_site_folder(raw_data: RawDataset, out: Path, progress: Progress) -> None:
    """Write ``raw_data`` to ``out`` as a checked site folder, or resume an interrupted call with the same data.

    Raises ``DataError`` if no sample has a modality, ``out`` contains other files, a row does not fit, or the disk
    fails.
    """
    refuse_missing_modalities(raw_data)
    write_site_folders({".": raw_data}, out, progress)


def write_site_folders(sites: Mapping[str, RawDataset], out: Path, progress: Progress) -> None:
    """Write each site's raw data to ``out/<name>``, as ``write_site_folder`` does. One site or all of them may lack a
    modality, because other sites of the federation may have it."""
    for raw_data in sites.values():
        raw = {**raw_data.spec.model_dump(mode="json"), "faults": [*raw_data.faults]}
        try:
            Description.model_validate(raw)  # otherwise the folder could not be opened
        except ValidationError as error:
            raise DataError(f"{raw_data.spec.name}: {explain(error, raw, Description)}") from None
    counted = _Progress(progress, _count_rows(sites.values()))
    try:
        work = out / WORK
        if not work.is_dir():
            _refuse_other_content(out)
        work.mkdir(parents=True, exist_ok=True)
        with _lock(work, out):
            _claim(sites, out, work)
            for name, raw_data in sites.items():
                folder, blocks = out / name, work / name
                for path in (blocks, folder, folder / "arrays"):
                    path.mkdir(parents=True, exist_ok=True)
                    remove_leftovers(path)
                for modality in raw_data.spec.names:
                    _ModalityWriter(raw_data, modality, blocks).write(folder, counted)
                samples = partial(write_samples, spec=raw_data.spec, samples=raw_data.samples)
                replace_file(folder / SAMPLES, samples)
                seal(folder, raw_data.spec, 1, raw_data.faults)
                write_stamp(folder, raw_data.samples)
            for path in work.iterdir():  # delete the owner's record last, so that an interrupted deletion can resume
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != OWNER:
                    path.unlink()
            shutil.rmtree(work)
    except OSError as error:
        path = Path(str(error.filename or out))
        failed = f"{out} cannot be written" if path.is_relative_to(out) else f"{path} cannot be read"
        hint = "fix that, then repeat the command, which resumes where it stopped"
        raise DataError(f"{failed}: {reason(error)}; {hint}") from None


def _count_rows(sites: Iterable[RawDataset]) -> dict[str, int]:
    """Modality -> number of rows at all sites."""
    totals: dict[str, int] = {}
    for raw_data in sites:
        for name, present in zip(raw_data.spec.names, raw_data.samples.present.T, strict=True):
            totals[name] = totals.get(name, 0) + int(present.sum())
    return totals


def missing_modalities(sites: Iterable[RawDataset]) -> list[str]:
    """The modalities that no sample of any site has."""
    return [name for name, total in _count_rows(sites).items() if not total]


def refuse_missing_modalities(raw_data: RawDataset) -> None:
    """Raise ``DataError`` if no sample has a modality, which is a fault of a whole data set."""
    if names := missing_modalities([raw_data]):
        found = f"expected a sample with {', '.join(names)}, found none in the whole data set"
        raise DataError(f"{raw_data.spec.name}: {found}")


def _refuse_other_content(out: Path) -> None:
    """Raise ``DataError`` if ``out`` contains files other than those of an interrupted call."""
    if out.exists() and (not out.is_dir() or any(path.name != WORK for path in out.iterdir())):
        found = "a prepared data set" if (out / DESCRIPTION).is_file() else "files in it" if out.is_dir() else "a file"
        raise DataError(f"{out}: expected a new or empty folder, found {found}; choose another one")


@contextmanager
def _lock(work: Path, out: Path) -> Iterator[None]:
    """Lock the folder of blocks against other processes; the system releases the lock however this process ends."""
    busy = DataError(f"{out}: another process is writing to this folder; wait for it or choose another --out")
    try:
        handle = os.open(work, os.O_RDONLY)
    except FileNotFoundError:  # the other process has just finished
        raise busy from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(handle).st_nlink:  # it finished before this process got the lock
            raise busy
        yield
    except BlockingIOError:
        raise busy from None
    finally:
        os.close(handle)


def _claim(sites: Mapping[str, RawDataset], out: Path, work: Path) -> None:
    """Record in the folder of blocks that it is for these sites; refuse it if it contains blocks of other sites."""
    parts = "\n".join(f"{name} {raw_data.digest()}" for name, raw_data in sites.items())
    digest = hashlib.sha256(parts.encode()).hexdigest()
    owner = (work / OWNER).read_bytes() if (work / OWNER).is_file() else None
    if owner is None:
        _refuse_other_content(out)
    if owner not in (None, digest.encode()):
        raise DataError(
            f"{out} contains an unfinished preparation of other files or with other options; choose another folder, or "
            "delete this one"
        )
    replace_text(work / OWNER, digest)

"""Writes the site folders of sites in blocks, so that memory stays small and an interruption costs one block."""

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
"""Where finished blocks wait for the others, inside the folder that is being made."""
BLOCK = 64
"""Samples that are read together, if they are small: a feature extractor's batch."""
MOST_BYTES = 64 << 20
"""Of the rows that are read together, but for a single row that is larger."""
BLOCK_BYTES, MOST_BLOCKS = 4 << 20, 16
"""Small rows wait together, since each file costs a wait for the disk: up to so many bytes, of so many blocks."""

Progress = Callable[[str, int, int], None]
"""Called with a modality, the rows that are done (over all sites), and how many there will be."""


@dataclass
class _Tally:
    """Adds up the rows of all sites for ``show``."""

    show: Progress
    totals: Mapping[str, int]
    done: dict[str, int] = field(default_factory=dict)

    def add(self, modality: str, rows: int) -> None:
        """So many rows of ``modality`` are done."""
        self.done[modality] = self.done.get(modality, 0) + rows
        self.show(modality, self.done[modality], self.totals[modality])


@dataclass(frozen=True)
class _Blocks:
    """The rows of one modality, which wait as files in ``work`` until they are all there."""

    raw_data: RawDataset
    modality: str
    work: Path

    @property
    def samples(self) -> IntArray:
        """int64 [R]: the samples that have the modality, in order."""
        column = self.raw_data.spec.names.index(self.modality)
        return np.flatnonzero(self.raw_data.samples.present[:, column]).astype(np.int64)

    @property
    def ragged(self) -> bool:
        """Whether the rows have lengths of their own."""
        return self.modality in self.raw_data.ragged

    @property
    def together(self) -> int:
        """Samples that are read together."""
        return max(1, min(BLOCK, MOST_BYTES // self._row_bytes))

    @property
    def _row_bytes(self) -> int:
        return 4 * prod(self.raw_data.spec[self.modality].shape)

    @property
    def per_file(self) -> int:
        """Samples whose rows wait in one file."""
        return self.together * min(max(BLOCK_BYTES // (self.together * self._row_bytes), 1), MOST_BLOCKS)

    def files(self) -> dict[Path, IntArray]:
        """File -> the samples whose rows it takes."""
        borders = range(0, len(self.samples), self.per_file)
        parts = [self.samples[start : start + self.per_file] for start in borders]
        return {self.work / f"{self.modality}.{number:06d}.npz": part for number, part in enumerate(parts)}

    @property
    def _joined(self) -> Path:
        return self.work / f"{self.modality}.joined"

    def write(self, folder: Path, tally: _Tally) -> None:
        """The array file of the modality, and its borders; what an earlier attempt has done is not done again."""
        if self._joined.exists() or not len(self.samples):
            tally.add(self.modality, len(self.samples))
            return
        for file, samples in self.files().items():
            if _is_whole(file, len(samples)):
                tally.add(self.modality, len(samples))
            else:
                self._make(file, samples, tally)
        self._join(folder)
        replace_text(self._joined, "")
        for file in self.files():
            file.unlink()

    def _make(self, file: Path, samples: IntArray, tally: _Tally) -> None:
        rows: list[FloatArray] = []
        for start in range(0, len(samples), self.together):
            chosen = samples[start : start + self.together]
            for sample, row in zip(chosen.tolist(), self.raw_data.rows[self.modality](chosen), strict=True):
                rows.append(_fitting(self.raw_data, self.modality, sample, row))
            tally.add(self.modality, len(chosen))
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        replace_file(file, lambda partial: _save_block(partial, rows, self._shape(lengths), lengths))

    def _join(self, folder: Path) -> None:
        """One array of all blocks, of which one is in memory at a time."""
        lengths = np.concatenate([_load_block(file, "lengths") for file in self.files()])
        replace_file(folder / array_file(self.modality), lambda partial: self._fill(partial, self._shape(lengths)))
        if self.ragged:
            borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            replace_file(folder / offsets_file(self.modality), lambda partial: save_array(partial, borders))

    def _shape(self, lengths: IntArray) -> tuple[int, ...]:
        """Of the array of so many rows."""
        shape = self.raw_data.spec[self.modality].shape
        return (int(lengths.sum()), *shape[1:]) if self.ragged else (len(lengths), *shape)

    def _fill(self, path: Path, shape: tuple[int, ...]) -> None:
        with path.open("wb") as file:
            _write_header(file, shape)
            for block in self.files():
                file.write(np.ascontiguousarray(_load_block(block, "rows")).data)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _save_block(path: Path, rows: Iterable[FloatArray], shape: tuple[int, ...], lengths: IntArray) -> None:
    """What ``np.savez`` writes, row by row: one array of all would take their memory a second time."""
    with zipfile.ZipFile(path, "w") as block:
        with block.open("rows.npy", "w", force_zip64=True) as file:
            _write_header(file, shape)
            for row in rows:
                file.write(np.ascontiguousarray(row, dtype="<f4").data)
        with block.open("lengths.npy", "w") as file:
            np.lib.format.write_array(file, lengths)


def _is_whole(path: Path, samples: int) -> bool:
    """Whether an earlier attempt left the rows of so many samples in the file; a damaged one is made anew."""
    if not path.exists():
        return False
    try:
        lengths, rows = _load_block(path, "lengths"), _load_block(path, "rows")
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile):
        return False
    return len(lengths) == samples and len(rows) in (samples, int(lengths.sum()))


def _load_block(path: Path, key: str) -> FloatArray | IntArray:
    with np.load(path, allow_pickle=False) as block:
        found: FloatArray | IntArray = block[key]
        return found


def _fitting(raw_data: RawDataset, modality: str, sample: int, row: FloatArray) -> FloatArray:
    """The row in float32; ``DataError`` where it is none of the modality."""
    shape, ragged = raw_data.spec[modality].shape, modality in raw_data.ragged
    steps = 1 <= row.shape[0] <= shape[0] if ragged and row.ndim else row.shape[:1] == shape[:1]
    if not steps or row.shape[1:] != shape[1:]:
        expected = f"1 to {shape[0]} steps of {list(shape[1:])}" if ragged else f"{list(shape)}"
        raise DataError(f"{raw_data.name_of(sample)}: {modality}: expected {expected}, found {list(row.shape)}")
    with np.errstate(over="ignore"):
        row = row.astype(np.float32, copy=False)
    if not np.isfinite(row).all():
        raise DataError(
            f"{raw_data.name_of(sample)}: {modality}: expected finite numbers, found NaN or infinity; leave the file "
            "out where the modality is missing"
        )
    return row


def prepare(raw_data: RawDataset, out: Path, progress: Progress) -> None:
    """Write ``out``, a checked site folder, from ``raw_data``; an interrupted preparation of the same raw_data goes on.

    Raises ``DataError`` where no sample has a modality, ``out`` holds something else, a row does not fit, or the disk
    is full.
    """
    refuse_lacking(raw_data)
    prepare_sites({".": raw_data}, out, progress)


def prepare_sites(sites: Mapping[str, RawDataset], out: Path, progress: Progress) -> None:
    """As ``prepare``, a site folder ``out/<name>`` per raw_data; sites may lack a modality, even all of them: then
    another one of the federation has it."""
    for raw_data in sites.values():
        _refuse_unsound(raw_data)
    tally = _Tally(progress, _totals(sites.values()))
    try:
        work = _room(out)
        with _alone(work, out):
            _begin(sites, out, work)
            for name, raw_data in sites.items():
                _write(raw_data, out / name, work / name, tally)
            _clear(work)
    except OSError as error:
        raise _failed(error, out) from None


def _refuse_unsound(raw_data: RawDataset) -> None:
    """``DataError`` where the specification is one that no folder can be opened with."""
    raw = {**raw_data.spec.model_dump(mode="json"), "faults": [*raw_data.faults]}
    try:
        Description.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{raw_data.spec.name}: {explain(error, raw, Description)}") from None


def _write(raw_data: RawDataset, folder: Path, work: Path, tally: _Tally) -> None:
    work.mkdir(parents=True, exist_ok=True)
    (folder / "arrays").mkdir(parents=True, exist_ok=True)
    for place in (work, folder, folder / "arrays"):
        remove_leftovers(place)
    for modality in raw_data.spec.names:
        _Blocks(raw_data, modality, work).write(folder, tally)
    replace_file(folder / SAMPLES, lambda partial: write_samples(partial, raw_data.spec, raw_data.samples))
    seal(folder, raw_data.spec, 1, raw_data.faults)
    write_stamp(folder, raw_data.samples)


def _failed(error: OSError, out: Path) -> DataError:
    """The words for a disk that refuses: a file of the source, or what is being written."""
    path = Path(str(error.filename or out))
    if path.is_relative_to(out):
        return DataError(f"{out} cannot be written: {reason(error)}; mend that, then prepare again: it goes on")
    return DataError(f"{path} cannot be read: {reason(error)}; mend that, then prepare again: it goes on")


def _totals(sites: Iterable[RawDataset]) -> dict[str, int]:
    """Modality -> rows of all sites."""
    totals: dict[str, int] = {}
    for raw_data in sites:
        for name, present in zip(raw_data.spec.names, raw_data.samples.present.T, strict=True):
            totals[name] = totals.get(name, 0) + int(present.sum())
    return totals


def lacking(sites: Iterable[RawDataset]) -> list[str]:
    """The modalities that no sample of any raw_data has."""
    return [name for name, total in _totals(sites).items() if not total]


def refuse_lacking(raw_data: RawDataset) -> None:
    """``DataError`` where no sample has a modality: of a whole data set that is a fault of its files."""
    if names := lacking([raw_data]):
        found = f"expected some sample with {', '.join(names)}, found none in the whole set"
        raise DataError(f"{raw_data.spec.name}: {found}")


def _room(out: Path) -> Path:
    """The folder of blocks, made where there is none; ``DataError`` where ``out`` holds something else."""
    work = out / WORK
    if not work.is_dir():
        _refuse_taken(out)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _refuse_taken(out: Path) -> None:
    taken = not out.is_dir() or any(path.name != WORK for path in out.iterdir()) if out.exists() else False
    if taken:
        found = "a prepared data set" if (out / DESCRIPTION).is_file() else "files in it" if out.is_dir() else "a file"
        raise DataError(f"{out}: expected a new or empty folder, found {found}; choose another one")


@contextmanager
def _alone(work: Path, out: Path) -> Iterator[None]:
    """Hold the folder of blocks against other processes; the system lets go of it however this one ends."""
    busy = DataError(f"{out}: another preparation of this folder is at work; wait for it or choose another --out")
    try:
        handle = os.open(work, os.O_RDONLY)
    except FileNotFoundError:  # the other one has just finished
        raise busy from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(handle).st_nlink:  # it did so before the lock was ours
            raise busy
        yield
    except BlockingIOError:
        raise busy from None
    finally:
        os.close(handle)


def _begin(sites: Mapping[str, RawDataset], out: Path, work: Path) -> None:
    """Claim the folder of blocks for these sites; what an interrupted preparation of others left is not mixed with
    them."""
    parts = "\n".join(f"{name} {raw_data.digest()}" for name, raw_data in sites.items())
    digest = hashlib.sha256(parts.encode()).hexdigest()
    known = (work / "recipe").read_bytes() if (work / "recipe").is_file() else None
    if known is None:
        _refuse_taken(out)
    if known not in (None, digest.encode()):
        told = "choose another folder, or delete this one"
        raise DataError(f"{out} holds an unfinished preparation of other files or with other options; {told}")
    replace_text(work / "recipe", digest)


def _clear(work: Path) -> None:
    """Remove the folder of blocks, last of all the file by which an interrupted removal goes on."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "recipe":
            path.unlink()
    shutil.rmtree(work)

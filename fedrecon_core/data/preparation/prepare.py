"""Writes the site folder of a recipe in blocks, so that memory stays small and an interruption costs one block."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.folder import SAMPLES, array_file, offsets_file, save_array, seal, stamp, write_samples
from fedrecon_core.data.preparation.recipe import FloatArray, Recipe
from fedrecon_core.disk import reason, replace_file, replace_text
from fedrecon_core.errors import DataError

WORK = ".preparing"
"""Where finished blocks wait for the others, inside the folder that is being made."""
BLOCK = 64
"""Samples that are read together: a feature extractor's batch, and what an interruption costs."""

Progress = Callable[[str, int, int], None]
"""Called with a modality, the rows that are done, and how many there will be."""


@dataclass(frozen=True)
class _Blocks:
    """The rows of one modality as blocks on the disk."""

    recipe: Recipe
    modality: str
    work: Path

    @property
    def samples(self) -> IntArray:
        """int64 [R]: the samples that have the modality, in order."""
        column = self.recipe.spec.names.index(self.modality)
        return np.flatnonzero(self.recipe.samples.present[:, column]).astype(np.int64)

    def file(self, number: int) -> Path:
        return self.work / f"{self.modality}.{number:06d}.npz"

    def numbers(self) -> range:
        return range(-(-len(self.samples) // BLOCK))

    def make(self, number: int) -> None:
        """Read one block, unless an earlier attempt has."""
        if self.file(number).exists():
            return
        samples = self.samples[number * BLOCK : (number + 1) * BLOCK]
        rows = self.recipe.rows[self.modality](samples)
        for sample, row in zip(samples.tolist(), rows, strict=True):
            _refuse_misfit(self.recipe, self.modality, sample, row)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        together = np.concatenate(rows) if self.modality in self.recipe.ragged else np.stack(rows)
        replace_file(self.file(number), lambda partial: _write_block(partial, together, lengths))

    def join(self, folder: Path) -> None:
        """The array file of the modality, and its borders, from all blocks; one block is in memory at a time."""
        numbers, ragged = self.numbers(), self.modality in self.recipe.ragged
        if not len(numbers):
            return
        lengths = np.concatenate([np.load(self.file(number))["lengths"] for number in numbers])
        shape = self.recipe.spec[self.modality].shape
        total = (int(lengths.sum()), *shape[1:]) if ragged else (len(lengths), *shape)
        replace_file(folder / array_file(self.modality), lambda partial: self._fill(partial, total))
        if ragged:
            borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            save_array(folder / offsets_file(self.modality), borders)

    def _fill(self, path: Path, shape: tuple[int, ...]) -> None:
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for number in self.numbers():
                file.write(np.ascontiguousarray(np.load(self.file(number))["rows"]).data)


def _write_block(path: Path, rows: FloatArray, lengths: IntArray) -> None:
    with path.open("wb") as file:
        np.savez(file, rows=rows.astype(np.float32, copy=False), lengths=lengths)


def _refuse_misfit(recipe: Recipe, modality: str, sample: int, row: FloatArray) -> None:
    shape, ragged = recipe.spec[modality].shape, modality in recipe.ragged
    fits = row.shape[1:] == shape[1:] and 1 <= len(row) <= shape[0] if ragged else row.shape == shape
    if not fits:
        expected = f"1 to {shape[0]} steps of {list(shape[1:])}" if ragged else f"{list(shape)}"
        raise DataError(f"{recipe.name_of(sample)}: {modality}: expected {expected}, found {list(row.shape)}")
    if not np.isfinite(row).all():
        raise DataError(
            f"{recipe.name_of(sample)}: {modality}: expected finite numbers, found NaN or infinity; leave the file out "
            "where the modality is missing"
        )


def prepare(recipe: Recipe, out: Path, progress: Progress) -> None:
    """Write ``out``, a checked site folder, from ``recipe``; an interrupted preparation of the same recipe goes on.

    Raises ``DataError`` where ``out`` holds something else, a row does not fit, or the disk is full.
    """
    _refuse_lacking(recipe)
    try:
        work = _begin(recipe, out)
        for modality in recipe.spec.names:
            _make(_Blocks(recipe, modality, work), progress)
        (out / "arrays").mkdir(exist_ok=True)
        for modality in recipe.spec.names:
            _Blocks(recipe, modality, work).join(out)
        replace_file(out / SAMPLES, lambda partial: write_samples(partial, recipe.spec, recipe.samples))
        seal(out, recipe.spec)
        stamp(out, recipe.samples)
        shutil.rmtree(work)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {reason(error)}; mend that, then prepare again: it goes on"
        ) from None


def _make(blocks: _Blocks, progress: Progress) -> None:
    total = len(blocks.samples)
    for number in blocks.numbers():
        blocks.make(number)
        progress(blocks.modality, min((number + 1) * BLOCK, total), total)


def _refuse_lacking(recipe: Recipe) -> None:
    columns = zip(recipe.spec.names, recipe.samples.present.T, strict=True)
    lacking = [name for name, present in columns if not present.any()]
    if lacking:
        found = f"expected some sample with {', '.join(lacking)}, found none in the whole set"
        raise DataError(f"{recipe.spec.name}: {found}")


def _begin(recipe: Recipe, out: Path) -> Path:
    """The folder of blocks of this recipe; what an interrupted preparation of another left is not mixed with it."""
    work, digest = out / WORK, recipe.digest()
    known = (work / "recipe").read_text(encoding="utf-8") if (work / "recipe").is_file() else None
    if known is None and out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: expected a new or empty folder, found files in it; choose another one")
    if known not in (None, digest):
        told = "choose another folder, or delete this one"
        raise DataError(f"{out} holds an unfinished preparation of other files or with other options; {told}")
    work.mkdir(parents=True, exist_ok=True)
    replace_text(work / "recipe", digest)
    return work

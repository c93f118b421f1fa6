"""Files of a site folder, which may be anything: they are opened only where they are plain files inside the folder, and
no header is believed. What cannot be read is a ``DataError`` in one line, never a wait and never code that runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.errors import DataError
from fedrecon_core.files import reason

BLOCK = 1 << 20
"""Bytes that are read together."""
LONGEST_HEADER = 10_000
"""Of an array file; NumPy reads no longer one either."""
LONGEST_LINE = 200
"""Characters of what a line quotes from a file."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def as_line(text: str) -> str:
    """``text`` on one line, cut to a readable length, without characters that a terminal would obey."""
    words = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return words if len(words) <= LONGEST_LINE else f"{words[: LONGEST_LINE - 3]}..."


def named(path: Path | str) -> str:
    """``path`` as it may stand in a line: a name may hold line breaks, or bytes that are no text."""
    return "".join(c if c.isprintable() else "?" for c in str(path))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """What the disk says about ``path`` as a ``DataError``."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{named(path)} cannot be read: {reason(error)}") from None


def open_file(folder: Path, name: str, what: str = "a file") -> BinaryIO:
    """The plain file ``name`` inside ``folder``, to be read; ``DataError`` for whatever else has the name.

    The kind is asked for first, since opening a pipe waits for a writer and opening a device may move it.
    """
    path = folder / name
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{named(path)}: expected {what}, found none") from None
    except OSError as error:
        raise DataError(f"{named(path)}: expected {what}, found {reason(error)}") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{named(path)}: expected {what}, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}")
    if leads_out(folder, name):
        raise DataError(
            f"{named(path)}: expected {what} inside the folder, found a link that leads out of it; put the file itself "
            "there"
        )
    with told(path):
        return io.BufferedReader(io.FileIO(path, opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)))


def leads_out(folder: Path, name: str) -> bool:
    """Whether a link takes ``name``, which exists, out of ``folder``."""
    return not (folder / name).resolve().is_relative_to(folder.resolve())


def read_start(folder: Path, name: str, most: int, what: str = "a file") -> bytes:
    """All bytes of a file; ``DataError`` where they are more than ``most``."""
    with open_file(folder, name, what) as file, told(folder / name):
        content = file.read(most + 1)
    if len(content) > most:
        raise DataError(f"{named(folder / name)}: expected at most {most} bytes, found more")
    return content


def digest_and_size(folder: Path, name: str) -> tuple[str, int]:
    """SHA-256 (hex) and bytes of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with open_file(folder, name) as file, told(folder / name):
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def names_in(folder: Path, inside: str) -> list[str]:
    """What lies in the folder ``inside`` of ``folder``, as paths relative to ``folder``, sorted; nothing where there is
    no such folder. ``DataError`` where it is another thing, or elsewhere."""
    path = folder / inside
    if not os.path.lexists(path):
        return []
    try:
        found = sorted(f"{inside}/{entry.name}" for entry in path.iterdir())
    except OSError as error:
        raise DataError(f"{named(path)}: expected a folder, found {reason(error)}") from None
    if leads_out(folder, inside):
        raise DataError(f"{named(path)}: expected a folder, found a link that leads out of {named(folder)}")
    return found


def size_and_time(folder: Path, name: str) -> list[int]:
    """Bytes of a plain file inside ``folder`` and the time of its last change (ns); nothing for whatever else is
    there."""
    try:
        found = (folder / name).stat()
    except OSError:
        return []
    plain = stat.S_ISREG(found.st_mode) and not leads_out(folder, name)
    return [found.st_size, found.st_mtime_ns] if plain else []


# --- arrays in NumPy's format ---------------------------------------------------------------------------------------

_ITEM = r"(?:'descr'\s*:\s*'[^']{0,40}'|'fortran_order'\s*:\s*(?:True|False)|'shape'\s*:\s*\([\d,\s]*\))"
_HEADER = re.compile(rf"\{{\s*{_ITEM}\s*,\s*{_ITEM}\s*,\s*{_ITEM}(?:\s*,)?\s*\}}\s*")
_PART = re.compile(r"'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([^)]*\))")
_PLAIN = re.compile(r"[<>|=][a-zA-Z]\d{0,3}")


@dataclass(frozen=True)
class Layout:
    """What the header of an array file says, and what follows from the file's size: ``dtype`` in words, ``shape``, the
    ``start`` of the numbers, their ``room`` (both in bytes) and whether they stand in ``fortran`` order."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    room: int
    fortran: bool

    def misfit(self, dtype: str, size: int) -> str | None:
        """Why this is no array of ``dtype`` (numbers of ``size`` bytes) in C order that fills its file; None if it
        is."""
        found = f"{self.dtype} [{dims(self.shape)}]"
        if self.dtype != dtype:
            return f"expected {dtype}, found {found}"
        if self.fortran:
            return f"expected {dtype} in C order, found Fortran order; save np.ascontiguousarray of it"
        wanted = math.prod(self.shape) * size
        if wanted != self.room:
            return f"expected {wanted} bytes of numbers, since its header says {found}, found {self.room}"
        return None


def layout_of(file: BinaryIO, path: Path) -> Layout:
    """The layout of an array file, which is read up to its numbers. NumPy's own reader is not asked: it also takes
    pickles and archives for arrays, and evaluates the header."""
    with told(path):
        start = file.read(8)
        width = 2 if start[6:7] == b"\x01" else 4
        length = int.from_bytes(file.read(width), "little")
        header = file.read(min(length, LONGEST_HEADER)).decode("latin-1")
        room = os.fstat(file.fileno()).st_size - 8 - width - length
    if start[:6] != b"\x93NUMPY" or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise DataError(f"{named(path)}: expected an array in NumPy's format (np.save), found something else")
    parts = dict(_PART.findall(header)) if _HEADER.fullmatch(header) else {}
    sizes = re.findall(r"\d+", parts.get("shape", ""))
    if len(parts) < 3 or len(sizes) > 32 or any(len(size) > 18 for size in sizes):
        found = as_line(repr(header[:80]))
        raise DataError(f"{named(path)}: expected the header of an array of numbers (np.save), found {found}")
    fortran = parts["fortran_order"] == "True"
    return Layout(_words(parts["descr"].strip("'")), tuple(map(int, sizes)), 8 + width + length, room, fortran)


def _words(descr: str) -> str:
    """A type of number as users know it: ``float32``, ``big-endian float32``, ``object``."""
    if not _PLAIN.fullmatch(descr):
        return as_line(repr(descr))
    try:
        name = np.dtype(f"={descr[1:]}" if descr[0] in "<>" else descr).name
    except (TypeError, ValueError):
        return repr(descr)
    return f"big-endian {name}" if descr[0] == ">" else name


def dims(shape: tuple[int, ...]) -> str:
    """A shape as it stands in a line."""
    return ", ".join(map(str, shape[:8])) + (", ..." if len(shape) > 8 else "")


def map_array(folder: Path, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An array mapped from the disk; of ``shape`` an axis that is None may have any length.

    It is mapped copy-on-write, since PyTorch takes no read-only memory. ``DataError`` where the file is another.
    """
    path, kind = folder / name, np.dtype(dtype)
    with open_file(folder, name, "an array") as file:
        layout = layout_of(file, path)
        fault = layout.misfit(kind.name, kind.itemsize)
        fits = len(layout.shape) == len(shape)
        fits = fits and all(w is None or w == f for w, f in zip(shape, layout.shape, strict=True))
        if fault or not fits:
            wanted = ", ".join("rows" if size is None else str(size) for size in shape)
            found = f"expected {kind.name} [{wanted}], found {layout.dtype} [{dims(layout.shape)}]"
            raise DataError(f"{named(path)}: {fault or found}")
        if not layout.room:
            return np.zeros(layout.shape, dtype=kind)
        try:
            return np.memmap(file, dtype=kind, mode="c", offset=layout.start, shape=layout.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{named(path)} cannot be mapped: {as_line(str(error))}") from None


def read_rows(file: BinaryIO, path: Path, layout: Layout, dtype: Any) -> Iterator[NDArray[Any]]:
    """The rows of an array whose layout fits, some at a time, by plain reading: a mapped file that is cut meanwhile
    would end the process."""
    row = math.prod(layout.shape[1:])
    size, left = row * np.dtype(dtype).itemsize, layout.shape[0]
    while left and size:
        rows = min(left, max(1, 4 * BLOCK // size))
        with told(path):
            content = file.read(rows * size)
        if len(content) < rows * size:
            raise DataError(f"{named(path)} became shorter while it was read; check again when nothing writes to it")
        yield np.frombuffer(content, dtype=dtype).reshape(rows, *layout.shape[1:])
        left -= rows


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write what ``np.save`` does, and see a full disk: that leaves the end to a buffer that loses it in silence."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)

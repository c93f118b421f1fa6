"""Safe access to the files of a site folder, whose content is not trusted.

Files are opened only if they are regular files inside the folder, and no header is trusted. A file that cannot be read
raises ``DataError`` with a message of one line; it never blocks, and its content is never executed.
"""

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
"""Number of bytes that are read at a time."""
LONGEST_HEADER = 10_000
"""Maximum size in bytes of an array file's header; NumPy has the same limit."""
LONGEST_QUOTE = 200
"""Maximum number of characters of a file's content that a message quotes."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def short_line(text: str) -> str:
    """``text`` on one line of at most ``LONGEST_QUOTE`` characters, without control characters."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return line if len(line) <= LONGEST_QUOTE else f"{line[: LONGEST_QUOTE - 3]}..."


def printable(path: Path | str) -> str:
    """``path`` for a message: names may contain line breaks, or bytes that are not text."""
    return "".join(c if c.isprintable() else "?" for c in str(path))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the disk into ``DataError`` naming ``path``."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {reason(error)}") from None


def open_file(folder: Path, name: str, what: str = "a file") -> BinaryIO:
    """Open the regular file ``name`` inside ``folder``; ``DataError`` for anything else of that name.

    The kind is checked before opening: opening a pipe waits for a writer, and opening a device may have effects.
    """
    path = folder / name
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{printable(path)}: expected {what}, found none") from None
    except OSError as error:
        raise DataError(f"{printable(path)}: expected {what}, found {reason(error)}") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{printable(path)}: expected {what}, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}")
    if leads_out(folder, name):
        raise DataError(
            f"{printable(path)}: expected {what} inside the folder, found a link that leads out of it; replace the "
            "link by the file"
        )
    with reading(path):
        return io.BufferedReader(io.FileIO(path, opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)))


def leads_out(folder: Path, name: str) -> bool:
    """Whether the existing path ``name`` points outside ``folder`` through a link."""
    return not (folder / name).resolve().is_relative_to(folder.resolve())


def read_bytes(folder: Path, name: str, most: int, what: str = "a file") -> bytes:
    """The content of a file; ``DataError`` if it has more than ``most`` bytes."""
    with open_file(folder, name, what) as file, reading(folder / name):
        content = file.read(most + 1)
    if len(content) > most:
        raise DataError(f"{printable(folder / name)}: expected at most {most} bytes, found more")
    return content


def digest_and_size(folder: Path, name: str) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with open_file(folder, name) as file, reading(folder / name):
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def names_in(folder: Path, inside: str) -> list[str]:
    """Sorted content of the subfolder ``inside``, as paths relative to ``folder``; empty if it does not exist.
    ``DataError`` if it is not a folder, or outside ``folder``."""
    path = folder / inside
    if not os.path.lexists(path):
        return []
    try:
        found = sorted(f"{inside}/{entry.name}" for entry in path.iterdir())
    except OSError as error:
        raise DataError(f"{printable(path)}: expected a folder, found {reason(error)}") from None
    if leads_out(folder, inside):
        raise DataError(f"{printable(path)}: expected a folder, found a link that leads out of {printable(folder)}")
    return found


def size_and_time(folder: Path, name: str) -> list[int]:
    """Size in bytes and modification time (ns) of a regular file inside ``folder``; empty for anything else."""
    try:
        found = (folder / name).stat()
    except OSError:
        return []
    regular = stat.S_ISREG(found.st_mode) and not leads_out(folder, name)
    return [found.st_size, found.st_mtime_ns] if regular else []


# --- arrays in NumPy's format ---------------------------------------------------------------------------------------

_ITEM = r"(?:'descr'\s*:\s*'[^']{0,40}'|'fortran_order'\s*:\s*(?:True|False)|'shape'\s*:\s*\([\d,\s]*\))"
_HEADER = re.compile(rf"\{{\s*{_ITEM}\s*,\s*{_ITEM}\s*,\s*{_ITEM}(?:\s*,)?\s*\}}\s*")
_PART = re.compile(r"'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([^)]*\))")
_PLAIN = re.compile(r"[<>|=][a-zA-Z]\d{0,3}")


@dataclass(frozen=True)
class ArrayHeader:
    """The header of an array file.

    ``dtype``: its name, such as ``float32``, ``big-endian float32`` or ``object``. ``start``: position of the numbers
    in the file; ``size``: bytes from there to the end of the file. ``fortran``: whether they are in Fortran order.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    fortran: bool

    def fault(self, dtype: str, itemsize: int) -> str | None:
        """The reason why this is not an array of ``dtype`` (``itemsize`` bytes per number) in C order that fills its
        file; None if it is."""
        found = f"{self.dtype} [{dims(self.shape)}]"
        if self.dtype != dtype:
            return f"expected {dtype}, found {found}"
        if self.fortran:
            return f"expected {dtype} in C order, found Fortran order; save np.ascontiguousarray(array)"
        expected = math.prod(self.shape) * itemsize
        if expected != self.size:
            return f"expected {expected} bytes of numbers, since its header says {found}, found {self.size}"
        return None


def read_header(file: BinaryIO, path: Path) -> ArrayHeader:
    """Read the header of an array file, up to its numbers. NumPy's reader is not used, because it also accepts pickles
    and archives, and evaluates the header."""
    with reading(path):
        start = file.read(8)
        width = 2 if start[6:7] == b"\x01" else 4
        length = int.from_bytes(file.read(width), "little")
        header = file.read(min(length, LONGEST_HEADER)).decode("latin-1")
        size = os.fstat(file.fileno()).st_size - 8 - width - length
    if start[:6] != b"\x93NUMPY" or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise DataError(f"{printable(path)}: expected an array in NumPy's format (np.save), found something else")
    parts = dict(_PART.findall(header)) if _HEADER.fullmatch(header) else {}
    sizes = re.findall(r"\d+", parts.get("shape", ""))
    if len(parts) < 3 or len(sizes) > 32 or any(len(number) > 18 for number in sizes):
        found = short_line(repr(header[:80]))
        raise DataError(f"{printable(path)}: expected the header of an array of numbers (np.save), found {found}")
    descr = parts["descr"].strip("'")
    try:
        name = np.dtype(f"={descr[1:]}" if descr[:1] in "<>" else descr).name if _PLAIN.fullmatch(descr) else None
    except (TypeError, ValueError):
        name = None
    if name is None:
        name = short_line(repr(descr))
    elif descr[0] == ">":
        name = f"big-endian {name}"
    fortran = parts["fortran_order"] == "True"
    return ArrayHeader(name, tuple(map(int, sizes)), 8 + width + length, size, fortran)


def dims(shape: tuple[int, ...]) -> str:
    """A shape for a message."""
    return ", ".join(map(str, shape[:8])) + (", ..." if len(shape) > 8 else "")


def map_array(folder: Path, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Map an array file of ``dtype`` and ``shape``, in which None allows any size; ``DataError`` for any other file.

    The mapping is copy-on-write, because PyTorch does not accept read-only memory.
    """
    path, kind = folder / name, np.dtype(dtype)
    with open_file(folder, name, "an array") as file:
        header = read_header(file, path)
        fault = header.fault(kind.name, kind.itemsize)
        fits = len(header.shape) == len(shape)
        fits = fits and all(w is None or w == f for w, f in zip(shape, header.shape, strict=True))
        if fault or not fits:
            wanted = ", ".join("rows" if size is None else str(size) for size in shape)
            found = f"expected {kind.name} [{wanted}], found {header.dtype} [{dims(header.shape)}]"
            raise DataError(f"{printable(path)}: {fault or found}")
        if not header.size:
            return np.zeros(header.shape, dtype=kind)
        try:
            return np.memmap(file, dtype=kind, mode="c", offset=header.start, shape=header.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{printable(path)} cannot be mapped: {short_line(str(error))}") from None


def read_rows(file: BinaryIO, path: Path, header: ArrayHeader, dtype: Any) -> Iterator[NDArray[Any]]:
    """Read the rows of an array file in blocks, after ``read_header``. The file is not mapped, because a mapped file
    that another program shortens would end the process."""
    row = math.prod(header.shape[1:])
    size, left = row * np.dtype(dtype).itemsize, header.shape[0]
    while left and size:
        rows = min(left, max(1, 4 * BLOCK // size))
        with reading(path):
            content = file.read(rows * size)
        if len(content) < rows * size:
            raise DataError(
                f"{printable(path)} became shorter while it was read; check again when no program writes to it"
            )
        yield np.frombuffer(content, dtype=dtype).reshape(rows, *header.shape[1:])
        left -= rows


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write the same bytes as ``np.save``, but raise ``OSError`` when the disk is full; ``np.save`` may silently lose
    the end."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)

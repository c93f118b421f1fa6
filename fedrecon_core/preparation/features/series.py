"""Feature ``series``: numbers as they are, from a NumPy file or a table in CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from fedrecon_core.config import Params
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

MAGIC = b"\x93NUMPY"
Size = Annotated[int, Field(ge=1)]
Place = Annotated[int, Field(ge=0)]
Delimiter = Annotated[str, StringConstraints(min_length=1, max_length=1)]
Numbers = NDArray[np.float64]


class SeriesParams(Params):
    """``width``: numbers of a vector, or of one step. ``longest``: the most steps of a sequence; None for a vector.
    ``columns``: names or places (from 0) of the columns of a table that are taken, in this order; with them ``width``
    is known, without them all are taken. ``delimiter``: what stands between the columns. ``longer``: a sequence of more
    steps is refused, or ``cut``."""

    name: str = "series"
    width: Size | None = None
    longest: Size | None = None
    columns: tuple[str | Place, ...] | None = Field(default=None, min_length=1)
    delimiter: Delimiter = ","
    longer: Literal["refuse", "cut"] = "refuse"

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.columns is None and self.width is None:
            raise InvalidValueError(
                "width", "expected how many numbers a step or a vector has (or columns), found neither"
            )
        if self.columns is not None and self.width not in (None, len(self.columns)):
            raise InvalidValueError("columns", f"expected as many as width ({self.width}), found {len(self.columns)}")
        if self.longest is None and self.longer != "refuse":
            raise InvalidValueError("longer", "expected its default, refuse, for a vector (no longest), found cut")
        return self

    @property
    def numbers(self) -> int:
        """Of a vector or a step."""
        return len(self.columns) if self.columns is not None else self.width or 0

    @property
    def named(self) -> bool:
        """Whether columns are called by their names, which a table must then have."""
        return any(isinstance(column, str) for column in self.columns or ())


@FEATURES.register("series")
class Series(Feature):
    """A sequence [T, width] with ``longest``, else a vector [width].

    A NumPy file (.npy) holds an array of that shape. A CSV file holds a row per step; a first row without any number is
    one of names. A vector may lie as a row or as a column, and a sequence of width 1 need not say so.
    """

    Params = SeriesParams
    medium: ClassVar[Literal["series"]] = "series"
    params: SeriesParams

    @property
    def ragged(self) -> bool:
        """Sequences have lengths of their own, vectors have not."""
        return self.params.longest is not None

    def modality(self, name: str) -> ModalitySpec:
        """A sequence or a vector, standardised."""
        longest, width = self.params.longest, self.params.numbers
        kind, shape = ("vector", (width,)) if longest is None else ("sequence", (longest, width))
        return ModalitySpec(name=name, kind=kind, shape=shape, scale="standard")

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [T, width] or [width] per content."""
        return [self._row(content) for content in contents]

    def _row(self, content: RawItem) -> FloatArray:
        try:
            values = self._shaped(_array(content.data) if content.data.startswith(MAGIC) else self._table(content.data))
            if not np.isfinite(values).all():
                raise ValueError("expected finite numbers, found NaN, infinity, or one too large for 32 bits")
        except ValueError as fault:
            raise DataError(f"{content.origin}: {fault}") from None
        return values

    def _shaped(self, values: Numbers) -> FloatArray:
        longest, width = self.params.longest, self.params.numbers
        if longest is None:
            fits = values.size == width == max(values.shape, default=1)
            return _fitting(values, fits, f"{width} numbers").reshape(width)
        if width == 1 and values.ndim == 1:
            values = values[:, None]
        if self.params.longer == "cut":
            values = values[:longest]
        fits = values.ndim == 2 and values.shape[1] == width and 1 <= len(values) <= longest
        return _fitting(values, fits, f"1 to {longest} steps of {width} numbers")

    def _table(self, data: bytes) -> Numbers:
        rows = _rows(data, self.params.delimiter)
        if not rows:
            raise ValueError("expected a .npy file or a table in CSV, found nothing in it")
        named = self.params.named or not any(_is_number(cell) for cell in rows[0][1])
        names = rows.pop(0)[1] if named else None
        places = self._places(names)
        widths = {len(row) for _, row in rows} if places is None else ()
        if len(widths) > 1:
            raise ValueError(f"expected rows of one width, found {min(widths)} to {max(widths)} columns")
        return np.array([_numbers(line, row, places) for line, row in rows], dtype=np.float64)

    def _places(self, names: list[str] | None) -> list[int] | None:
        """Where the chosen columns stand."""
        if self.params.columns is None:
            return None
        return [column if isinstance(column, int) else _place(column, names) for column in self.params.columns]


def _fitting(values: Numbers, fits: bool, expected: str) -> FloatArray:
    if not fits:
        raise ValueError(f"expected {expected}, found an array of the shape {list(values.shape)}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused by the caller
        return np.ascontiguousarray(values, dtype=np.float32)


def _array(data: bytes) -> Numbers:
    try:
        values: Any = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy raises whatever a damaged header leads it to
        raise ValueError(f"expected a whole .npy file, found {' '.join(str(error).split())[:120]}") from None
    if values.dtype.kind not in "buif":
        raise ValueError(f"expected numbers, found an array of {values.dtype}")
    return np.asarray(values, dtype=np.float64)


def _rows(data: bytes, delimiter: str) -> list[tuple[int, list[str]]]:
    """The rows of a table that are not empty, with their line numbers."""
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ValueError(f"expected a .npy file or a table in UTF-8, found {found}") from None
    except csv.Error as error:
        raise ValueError(f"expected a table in CSV, found {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _place(column: str, names: list[str] | None) -> int:
    known = [name.strip() for name in names or ()]
    if column not in known:
        raise ValueError(f"expected the column '{column}', found {', '.join(known)[:80] or 'no names'}")
    return known.index(column)


def _numbers(line: int, row: list[str], places: list[int] | None) -> list[float]:
    return [_number(line, row, place) for place in (range(len(row)) if places is None else places)]


def _number(line: int, row: list[str], place: int) -> float:
    if not 0 <= place < len(row):
        raise ValueError(f"line {line}: expected a column {place + 1}, found {len(row)} columns")
    if not _is_number(row[place]):
        raise ValueError(f"line {line}: column {place + 1}: expected a number, found '{row[place].strip()[:40]}'")
    return float(row[place])

"""Feature ``series``: unchanged numbers from a NumPy file or a CSV table."""

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
Position = Annotated[int, Field(ge=0)]
Delimiter = Annotated[str, StringConstraints(min_length=1, max_length=1)]
Numbers = NDArray[np.float64]


class SeriesParams(Params):
    """``width``: number of values of a vector, or per step. ``longest``: maximum number of steps of a sequence; None
    for a vector. ``columns``: names or positions (from 0) of the columns of a table to use, in this order (default:
    all); they determine ``width``. ``delimiter``: the separator of columns. ``longer``: longer sequences are refused,
    or ``cut``."""

    name: str = "series"
    width: Size | None = None
    longest: Size | None = None
    columns: tuple[str | Position, ...] | None = Field(default=None, min_length=1)
    delimiter: Delimiter = ","
    longer: Literal["refuse", "cut"] = "refuse"

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.columns is None and self.width is None:
            raise InvalidValueError(
                "width", "expected the number of values per step or vector (or columns), found neither"
            )
        if self.columns is not None and self.width not in (None, len(self.columns)):
            raise InvalidValueError("columns", f"expected as many as width ({self.width}), found {len(self.columns)}")
        if self.longest is None and self.longer != "refuse":
            raise InvalidValueError("longer", "expected its default, refuse, for a vector (no longest), found cut")
        return self

    @property
    def numbers(self) -> int:
        """Number of values of a vector, or per step."""
        return len(self.columns) if self.columns is not None else self.width or 0


@FEATURES.register("series")
class Series(Feature):
    """A sequence [T, width] with ``longest``, otherwise a vector [width].

    A NumPy file (.npy) has an array of that shape. A CSV file has one row per step; a first row without any number is
    a header. A vector may be a row or a column, and a sequence of width 1 may be one-dimensional.
    """

    Params = SeriesParams
    medium: ClassVar[Literal["series"]] = "series"
    params: SeriesParams

    @property
    def ragged(self) -> bool:
        """Sequences differ in length, vectors do not."""
        return self.params.longest is not None

    def modality(self, name: str) -> ModalitySpec:
        """A standardized sequence or vector."""
        longest, width = self.params.longest, self.params.numbers
        kind, shape = ("vector", (width,)) if longest is None else ("sequence", (longest, width))
        return ModalitySpec(name=name, kind=kind, shape=shape, scale="standard")

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [T, width] or [width] per content."""
        rows = []
        for content in contents:
            try:
                if content.data.startswith(MAGIC):
                    try:
                        stored: Any = np.load(io.BytesIO(content.data), allow_pickle=False)
                    except Exception as error:  # NumPy raises many types on damaged headers
                        found = " ".join(str(error).split())[:120]
                        raise ValueError(f"expected a complete .npy file, found {found}") from None
                    if stored.dtype.kind not in "buif":
                        raise ValueError(f"expected numbers, found an array of {stored.dtype}")
                    values = np.asarray(stored, dtype=np.float64)
                else:
                    values = self._read_table(content.data)
                rows.append(self._check(values))
            except ValueError as fault:
                raise DataError(f"{content.origin}: {fault}") from None
        return rows

    def _check(self, values: Numbers) -> FloatArray:
        """Check shape and values, and convert to float32."""
        longest, width = self.params.longest, self.params.numbers
        if longest is None:
            expected, fits = f"{width} numbers", values.size == width == max(values.shape, default=1)
        else:
            if width == 1 and values.ndim == 1:
                values = values[:, None]
            if self.params.longer == "cut":
                values = values[:longest]
            expected = f"1 to {longest} steps of {width} numbers"
            fits = values.ndim == 2 and values.shape[1] == width and 1 <= len(values) <= longest
        if not fits:
            raise ValueError(f"expected {expected}, found an array of shape {list(values.shape)}")
        with np.errstate(over="ignore"):  # a number that is too large becomes infinite and is refused below
            array: FloatArray = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError("expected finite numbers, found NaN, infinity, or one too large for 32 bits")
        return array.reshape(width) if longest is None else array

    def _read_table(self, data: bytes) -> Numbers:
        rows, columns = _rows(data, self.params.delimiter), self.params.columns
        if not rows:
            raise ValueError("expected a .npy file or a CSV table, found no rows")
        by_name = any(isinstance(column, str) for column in columns or ())
        has_header = by_name or not any(_is_number(cell) for cell in rows[0][1])
        header = [name.strip() for name in rows.pop(0)[1]] if has_header else []
        if columns is None:
            widths = {len(row) for _, row in rows}
            if len(widths) > 1:
                raise ValueError(f"expected rows of equal width, found {min(widths)} to {max(widths)} columns")
            positions = list(range(max(widths, default=0)))
        else:
            unknown = next((name for name in columns if isinstance(name, str) and name not in header), None)
            if unknown is not None:
                found = ", ".join(header)[:80] or "no names"
                raise ValueError(f"expected the column '{unknown}', found {found}")
            positions = [column if isinstance(column, int) else header.index(column) for column in columns]
        return np.array([[_number(line, row, p) for p in positions] for line, row in rows], dtype=np.float64)


def _rows(data: bytes, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the non-empty rows of a table with their line numbers."""
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ValueError(f"expected a .npy file or a table in UTF-8, found {found}") from None
    except csv.Error as error:
        raise ValueError(f"expected a CSV table, found {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(line: int, row: list[str], position: int) -> float:
    if not 0 <= position < len(row):
        raise ValueError(f"line {line}: expected a column {position + 1}, found {len(row)} columns")
    cell = row[position]
    if not _is_number(cell):
        raise ValueError(f"line {line}: column {position + 1}: expected a number, found '{cell.strip()[:40]}'")
    return float(cell)

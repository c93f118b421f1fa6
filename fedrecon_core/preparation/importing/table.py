"""A table as its owner has it, CSV or Parquet: columns of texts, and numbers from them with the place of a fault."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError, did_you_mean
from fedrecon_core.preparation.expected_files import read_text

MAGIC = {b"PAR1": "parquet", b"PK\x03\x04": "workbook"}
"""How a file begins -> what it is; all else is read as CSV."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A number with a decimal point, without marks between thousands."""
MARKS = str.maketrans("", "", ".,_' \u00a0\u2009\u202f")
"""Takes out what people write between thousands."""


@dataclass(frozen=True)
class Form:
    """How a CSV file is written; ``empty``: words that stand for an empty cell."""

    encoding: str = "utf-8"
    separator: str = ","
    decimal: str = "."
    empty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Chosen columns of a table. An empty cell is an empty text. ``places`` are the rows' numbers as their owner counts
    them: ``unit`` is ``line`` in a CSV file, whose header is line 1, else ``row``. ``typed`` names the columns that are
    stored as numbers: they have a decimal point, whatever the form says of texts."""

    path: Path
    columns: Mapping[str, Sequence[str]]
    places: Sequence[int]
    unit: str
    form: Form
    typed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, column: str) -> Sequence[str]:
        return self.columns[column]

    def place(self, row: int) -> str:
        """Where a row is, in its owner's count."""
        return f"{self.unit} {self.places[row]}"

    def fault(self, row: int, column: str, words: str) -> DataError:
        """The error of one cell: where it is, and what was expected and found."""
        return DataError(f"{self.path}: {self.place(row)}, column '{column}': {words}")

    def filled(self, column: str, what: str) -> Sequence[str]:
        """The column's texts; ``DataError`` where one is empty."""
        texts = self[column]
        bare = next((row for row, text in enumerate(texts) if not text), None)
        if bare is not None:
            raise self.fault(bare, column, f"expected {what} in every row, found an empty cell")
        return texts

    def numbers(self, column: str) -> NDArray[np.float64]:
        """float64 [N], NaN where the cell is empty; ``DataError`` at a cell that is no finite number."""
        texts, decimal = self[column], "." if column in self.typed else self.form.decimal
        values = np.array([_number(text, decimal) for text in texts], dtype=np.float64)
        wrong = ~np.isfinite(values) & np.array([bool(text) for text in texts], dtype=np.bool_)
        if wrong.any():
            row = int(wrong.argmax())
            told = _hint(texts[row], decimal)
            raise self.fault(row, column, f"expected a number, found '{texts[row][:40]}'; {told}")
        return values


def _number(text: str, decimal: str) -> float:
    """NaN for an empty text, infinity for one that is no number: Python's own reading would take 1_000 for 1000."""
    if not text:
        return math.nan
    plain = text if decimal == "." else text.translate({ord(","): ".", ord("."): ","})
    return float(plain) if NUMBER.fullmatch(plain) else math.inf


def _hint(text: str, decimal: str) -> str:
    """What to do about a text that is no number."""
    if decimal == "." and np.isfinite(_number(text, ",")):
        return "a decimal comma is read with decimal: ',' in the mapping; a comma between thousands is taken out"
    if decimal == "," and np.isfinite(_number(text, ".")):
        return "the mapping says decimal: ','; leave that key out for decimal points; take out points between thousands"
    if np.isfinite(_number(text.translate(MARKS), ".")):
        return "take out what stands between thousands"
    return "correct it, or list it under empty: in the mapping, where it stands for a missing value"


def codes(texts: Sequence[str]) -> IntArray:
    """int64 [N]: the texts' own numbers where all are whole numbers, else their places among the sorted texts."""
    if all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts):
        numbers = [int(text) for text in texts]
        if all(str(number) == text for number, text in zip(numbers, texts, strict=True)):  # 007 is not 7
            return np.array(numbers, dtype=np.int64)
    order = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.array([order[text] for text in texts], dtype=np.int64)


# --- reading --------------------------------------------------------------------------------------------------------


def read_table(path: Path, wanted: Collection[str], form: Form) -> Table:
    """The columns ``wanted`` of a CSV or Parquet file; ``DataError`` where it is none, or lacks one of them."""
    try:
        with path.open("rb") as file:
            kind = MAGIC.get(file.read(4))
    except OSError as error:
        raise DataError(f"{path}: expected a CSV or Parquet file, found {error.strerror}") from None
    if kind == "workbook":
        raise DataError(f"{path}: expected a CSV or Parquet file, found a workbook or an archive; save it as CSV")
    table = _read_parquet(path, wanted, form) if kind == "parquet" else _read_csv(path, wanted, form)
    if not len(table):
        raise DataError(f"{path}: expected rows below the header, found none")
    return table


def _read_csv(path: Path, wanted: Collection[str], form: Form) -> Table:
    text = read_text(path, form.encoding).removeprefix("\ufeff")  # as Excel marks UTF-8
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=form.separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _refuse_lacking(path, header, wanted, form)
        places = {name: header.index(name) for name in wanted}
        columns: dict[str, list[str]] = {name: [] for name in wanted}
        lines = []
        for cells in _rows(path, reader, len(header)):
            lines.append(reader.line_num)
            for name, place in places.items():
                columns[name].append(_cell(cells[place], form))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: expected CSV, found: {error}") from None
    return Table(path, columns, lines, "line", form)


def _rows(path: Path, reader: Any, width: int) -> Iterator[list[str]]:
    """The rows, without empty lines; ``reader`` is csv's."""
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) != width:
            told = "a text with the separator in it stands in quotes"
            raise DataError(
                f"{path}: line {reader.line_num}: expected {width} cells as in the header, found {len(cells)}; {told}"
            )
        yield cells


def _read_parquet(path: Path, wanted: Collection[str], form: Form) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _refuse_lacking(path, pq.read_schema(path).names, wanted, form)
        found = pq.read_table(path, columns=list(wanted))
        columns = {name: _texts(path, name, found[name], form) for name in wanted}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file, found: {' '.join(str(error).split())}") from None
    typed = frozenset(name for name in columns if _is_typed(found[name].type))
    return Table(path, columns, range(1, len(found) + 1), "row", form, typed)


def _is_typed(kind: Any) -> bool:
    """Whether a Parquet type is one of numbers; texts have several types, and may be kept as codes."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _texts(path: Path, name: str, column: Any, form: Form) -> list[str]:
    import pyarrow as pa

    try:
        plain = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        cells = plain.cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise DataError(f"{path}: column '{name}': expected texts or numbers, found {column.type}") from None
    return [_cell(cell or "", form) for cell in cells]


def _cell(text: str, form: Form) -> str:
    text = text.strip()
    return "" if text in form.empty else text


def _refuse_lacking(path: Path, header: Sequence[str], wanted: Collection[str], form: Form) -> None:
    lacking = sorted(set(wanted) - set(header))
    if lacking:
        named = ", ".join(f"'{name}'" for name in lacking)
        hint = did_you_mean(lacking[0], header)
        if len(header) == 1:
            hint = f"The separator is '{form.separator}' (separator: in the mapping)."
        there = ", ".join(header) or "an empty file"
        there = there if len(there) <= 200 else f"{there[:197]}..."
        raise DataError(f"{path}: expected the columns {named} that the mapping names, found {there}. {hint}".rstrip())
    twice = sorted({name for name in wanted if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: expected each column once in the header, found '{twice[0]}' several times")

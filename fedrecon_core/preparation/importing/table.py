"""Reading a table in CSV or Parquet: columns of texts, and numbers from them; errors name the row."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError, did_you_mean
from fedrecon_core.files import read_text

MAGIC = {b"PAR1": "parquet", b"PK\x03\x04": "workbook"}
"""First bytes of a file -> its format; everything else is read as CSV."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A number with a decimal point, without thousands separators."""
MARKS = str.maketrans("", "", ".,_' \u00a0\u2009\u202f")
"""Removes thousands separators."""


@dataclass(frozen=True)
class Form:
    """The format of a CSV file; ``empty``: texts that stand for an empty cell."""

    encoding: str = "utf-8"
    separator: str = ","
    decimal: str = "."
    empty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Selected columns of a table. An empty cell is an empty text. ``places``: the numbers of the rows for messages, as
    ``unit`` counts them: ``line`` in a CSV file, whose header is line 1, else ``row``. ``typed``: the columns that are
    stored as numbers; they have a decimal point, whatever ``form`` says about texts."""

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
        """The location of a row, for messages."""
        return f"{self.unit} {self.places[row]}"

    def fault(self, row: int, column: str, message: str) -> DataError:
        """The error for one cell."""
        return DataError(f"{self.path}: {self.place(row)}, column '{column}': {message}")

    def filled(self, column: str, what: str) -> Sequence[str]:
        """The column's texts; ``DataError`` if one is empty."""
        texts = self[column]
        bare = next((row for row, text in enumerate(texts) if not text), None)
        if bare is not None:
            raise self.fault(bare, column, f"expected {what} in every row, found an empty cell")
        return texts

    def numbers(self, column: str) -> NDArray[np.float64]:
        """float64 [N], NaN where the cell is empty; ``DataError`` for a cell that is not a finite number."""
        texts, decimal = self[column], "." if column in self.typed else self.form.decimal
        values = np.array([_number(text, decimal) for text in texts], dtype=np.float64)
        wrong = ~np.isfinite(values) & np.array([bool(text) for text in texts], dtype=np.bool_)
        if wrong.any():
            row = int(wrong.argmax())
            hint = _hint(texts[row], decimal)
            raise self.fault(row, column, f"expected a number, found '{texts[row][:40]}'; {hint}")
        return values


def _number(text: str, decimal: str) -> float:
    """NaN for an empty text, infinity for one that is not a number. Python's ``float`` would accept 1_000."""
    if not text:
        return math.nan
    plain = text if decimal == "." else text.translate({ord(","): ".", ord("."): ","})
    return float(plain) if NUMBER.fullmatch(plain) else math.inf


def _hint(text: str, decimal: str) -> str:
    """What to do about a text that is not a number."""
    if decimal == "." and np.isfinite(_number(text, ",")):
        return "set decimal: ',' in the mapping for decimal commas; remove commas between thousands"
    if decimal == "," and np.isfinite(_number(text, ".")):
        return "the mapping sets decimal: ','; remove that key for decimal points; remove points between thousands"
    if np.isfinite(_number(text.translate(MARKS), ".")):
        return "remove the thousands separators"
    return "correct it, or list it under empty: in the mapping if it stands for a missing value"


def codes(texts: Sequence[str]) -> IntArray:
    """int64 [N]: the texts as numbers where all are whole numbers, else their positions among the sorted texts."""
    if all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts):
        numbers = [int(text) for text in texts]
        if all(str(number) == text for number, text in zip(numbers, texts, strict=True)):  # 007 is not 7
            return np.array(numbers, dtype=np.int64)
    order = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.array([order[text] for text in texts], dtype=np.int64)


# --- reading --------------------------------------------------------------------------------------------------------


def read_table(path: Path, wanted: Collection[str], form: Form) -> Table:
    """Read the columns ``wanted`` of a CSV or Parquet file; ``DataError`` for another format or a missing column."""
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
    text = read_text(path, form.encoding).removeprefix("\ufeff")  # Excel starts UTF-8 files with this mark
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=form.separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header, wanted, form)
        positions = {name: header.index(name) for name in wanted}
        columns: dict[str, list[str]] = {name: [] for name in wanted}
        lines = []
        for cells in reader:
            if not any(cells):
                continue  # an empty line
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: line {reader.line_num}: expected {len(header)} cells as in the header, found "
                    f"{len(cells)}; put texts that contain the separator in quotes"
                )
            lines.append(reader.line_num)
            for name, position in positions.items():
                columns[name].append(_cell(cells[position], form))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: expected CSV, found: {error}") from None
    return Table(path, columns, lines, "line", form)


def _read_parquet(path: Path, wanted: Collection[str], form: Form) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_header(path, pq.read_schema(path).names, wanted, form)
        found = pq.read_table(path, columns=list(wanted))
        columns = {}
        for name in wanted:
            column = found[name]
            try:
                plain = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
                cells = plain.cast(pa.string()).to_pylist()
            except pa.ArrowException:
                expected = "expected texts or numbers"
                raise DataError(f"{path}: column '{name}': {expected}, found {column.type}") from None
            columns[name] = [_cell(cell or "", form) for cell in cells]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file, found: {' '.join(str(error).split())}") from None
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    typed = frozenset(name for name in columns if any(test(found[name].type) for test in numeric))
    return Table(path, columns, range(1, len(found) + 1), "row", form, typed)


def _cell(text: str, form: Form) -> str:
    text = text.strip()
    return "" if text in form.empty else text


def _check_header(path: Path, header: Sequence[str], wanted: Collection[str], form: Form) -> None:
    lacking = sorted(set(wanted) - set(header))
    if lacking:
        named = ", ".join(f"'{name}'" for name in lacking)
        hint = did_you_mean(lacking[0], header)
        if len(header) == 1:
            hint = f"The separator is '{form.separator}' (separator: in the mapping)."
        found = ", ".join(header) or "an empty file"
        found = found if len(found) <= 200 else f"{found[:197]}..."
        raise DataError(f"{path}: expected the columns {named} that the mapping names, found {found}. {hint}".rstrip())
    twice = sorted({name for name in wanted if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: expected each column once in the header, found '{twice[0]}' several times")

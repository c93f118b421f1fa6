"""Classes and labels of a table: one column, a column of several classes, or a column of zeros and ones per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrecon_core.data.dataset import IntArray
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.importing.mapping import Label, OneLabel
from fedrecon_core.preparation.importing.table import Table

Classes = tuple[str, ...]


def labels_of(table: Table, label: Label, given: Classes | None) -> tuple[Classes, IntArray]:
    """The classes (``given``, else those found), and int64 [N] or zeros and ones [N, C].

    Raises ``DataError`` naming the cell that holds no class.
    """
    if not isinstance(label, OneLabel):
        return given or label.names, np.stack([_flags(table, name) for name in label.names], axis=1)
    if label.separator is None:
        texts = [[text] for text in table.filled(label.column, "a class")]
        classes, places = _coded(table, label.column, texts, given)
        return classes, np.array(places, dtype=np.int64)[:, 0]
    parts = [[part.strip() for part in text.split(label.separator)] for text in table[label.column]]
    classes, places = _coded(table, label.column, [[part for part in cell if part] for cell in parts], given)
    labels = np.zeros((len(table), len(classes)), dtype=np.int64)
    for row, some in enumerate(places):
        labels[row, some] = 1
    return classes, labels


def _coded(
    table: Table, column: str, texts: Sequence[Sequence[str]], given: Classes | None
) -> tuple[Classes, list[list[int]]]:
    """The classes, and the positions of each row's."""
    classes = given or _found(table, column, {text for some in texts for text in some})
    known = {name: place for place, name in enumerate(classes)}
    for row, some in enumerate(texts):
        for text in some:
            if text not in known:
                raise table.fault(row, column, f"expected one of the classes ({', '.join(classes)}), found '{text}'")
    return classes, [[known[text] for text in some] for some in texts]


def _found(table: Table, column: str, found: set[str]) -> Classes:
    if len(found) < 2:
        raise DataError(
            f"{table.path}: column '{column}': expected at least two classes, found {len(found)}; "
            "a table that holds only some of them names all under classes:"
        )
    numbers = all(text.isdecimal() for text in found)
    return tuple(sorted(found, key=lambda text: (int(text) if numbers else 0, text)))


def _flags(table: Table, column: str) -> IntArray:
    """int64 [N]: zeros and ones."""
    table.filled(column, "0 or 1")
    values = table.numbers(column)
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise table.fault(row, column, f"expected 0 or 1, found '{table[column][row]}'")
    return values.astype(np.int64)

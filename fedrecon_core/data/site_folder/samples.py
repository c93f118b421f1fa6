"""The table of samples of a site folder: writing and reading Parquet, and checks of its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon_core.data.dataset import BoolArray, IntArray
from fedrecon_core.data.site_folder.description import SAMPLES
from fedrecon_core.data.site_folder.files import open_file, printable, short_line
from fedrecon_core.errors import DataError
from fedrecon_core.types import SPLITS, DatasetSpec

MOST_SAMPLES = 50_000_000
"""Maximum number of rows of a table. The metadata of a damaged or malicious file may claim any number."""


@dataclass(frozen=True)
class Samples:
    """The table of samples. ``ids``, ``labels`` (multilabel: zeros and ones [N, C]), ``split`` (0 train, 1 validation,
    2 test) and ``cluster_ids``: int64 [N]. ``present``: bool [N, M] in the order of the spec's modalities.
    ``natural_ids``: int64 [N] as in ``Dataset``; they default to ``cluster_ids``."""

    ids: IntArray
    labels: IntArray
    split: IntArray
    cluster_ids: IntArray
    present: BoolArray
    natural_ids: IntArray = None  # type: ignore[assignment]  # taken from cluster_ids where it is left out

    def __post_init__(self) -> None:
        if vars(self)["natural_ids"] is None:
            object.__setattr__(self, "natural_ids", self.cluster_ids)


def rows_of(present: BoolArray) -> list[IntArray]:
    """Per modality (column of ``present``) int64 [N]: the row of each sample in the modality's array, or -1."""
    return [np.where(has, np.cumsum(has) - 1, -1) for has in present.T]


def write_samples(path: Path, spec: DatasetSpec, samples: Samples) -> None:
    """Write the table of samples; the classes of a multilabel sample are a list of positions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": samples.ids,
        "label": samples.labels if spec.target == "multiclass" else [np.flatnonzero(row) for row in samples.labels],
        "split": np.array(SPLITS)[samples.split],
        "group": samples.cluster_ids,
        **({} if np.array_equal(samples.natural_ids, samples.cluster_ids) else {"natural": samples.natural_ids}),
        **{f"has_{name}": samples.present[:, index] for index, name in enumerate(spec.names)},
    }
    pq.write_table(pa.table(columns), path)


def read_samples(folder: Path, spec: DatasetSpec) -> tuple[Samples | None, list[str]]:
    """The table in ``samples.parquet``, or None, and the reasons why it cannot be read."""
    import pyarrow as pa

    path = printable(folder / SAMPLES)
    try:
        with open_file(folder, SAMPLES, "a Parquet table of the samples") as file:
            samples, faults = _read_table(file, spec)
    except DataError as error:
        return None, [str(error)]
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        found = short_line(str(error) or type(error).__name__)
        return None, [f"{path}: expected a Parquet table of the samples, found {found}"]
    return samples, [f"{path}: {fault}" for fault in faults]


def _read_table(file: Any, spec: DatasetSpec) -> tuple[Samples | None, list[str]]:
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    schema, rows = opened.schema_arrow, opened.metadata.num_rows
    faults = list(_column_faults(list(zip(schema.names, map(str, schema.types), strict=True)), spec))
    if rows > MOST_SAMPLES:
        faults.append(f"expected at most {MOST_SAMPLES} rows, found {rows}")
    if faults:
        return None, faults
    table = opened.read(use_threads=False)
    table.validate(full=True)
    if len(table) != rows:
        return None, [f"expected {rows} rows, as the file's metadata says, found {len(table)}"]
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        return None, [f"column {name}: expected a value in every row, found empty cells" for name in empty]
    splits = table["split"].to_numpy()
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        found = ", ".join(map(repr, unknown[:5]))
        return None, [short_line(f"column split: expected {', '.join(SPLITS)}, found {found}")]
    labels, faults = _read_labels(table["label"], spec)
    if faults:
        return None, faults
    has = [table[f"has_{name}"].to_numpy() for name in spec.names]
    return Samples(
        ids=table["id"].to_numpy(),
        labels=labels,
        split=np.array([SPLITS.index(name) for name in splits], dtype=np.int64),
        cluster_ids=table["group"].to_numpy(),
        present=np.stack(has, axis=1).astype(np.bool_) if len(table) else np.zeros((0, len(has)), dtype=np.bool_),
        natural_ids=table["natural" if "natural" in table.column_names else "group"].to_numpy(),
    ), []


def _read_labels(column: Any, spec: DatasetSpec) -> tuple[IntArray, list[str]]:
    """int64 [N], or zeros and ones [N, C] of a multilabel set, and the faults."""
    multilabel, classes = spec.target == "multilabel", len(spec.classes)
    flat = column.combine_chunks().flatten() if multilabel else column
    if flat.null_count:
        fault = "column label: expected a class in every position of a list, found empty positions"
        return np.zeros(0, dtype=np.int64), [fault]
    values = np.asarray(flat.to_numpy(), dtype=np.int64)
    wrong = values[(values < 0) | (values >= classes)]
    if len(wrong):
        return values, [f"column label: expected 0 to {classes - 1} (the classes), found {first_values(wrong)}"]
    if not multilabel:
        return values, []
    lengths = column.combine_chunks().value_lengths().to_numpy()
    labels = np.zeros((len(column), classes), dtype=np.int64)
    labels[np.repeat(np.arange(len(column)), lengths), values] = 1
    return labels, []


def _column_faults(found: list[tuple[str, str]], spec: DatasetSpec) -> Iterator[str]:
    """Faults of the columns, given as (name, type)."""
    label = "int64" if spec.target == "multiclass" else "list<element: int64>"
    expected = {"id": "int64", "label": label, "split": "string", "group": "int64"}
    expected |= {f"has_{name}": "bool" for name in spec.names}
    types = dict(found)
    for name, kind in (expected | ({"natural": "int64"} if "natural" in types else {})).items():
        if name not in types:
            yield f"expected the column {name} ({kind}), found none"
        elif types[name].removeprefix("large_").replace("<item:", "<element:").replace(" not null", "") != kind:
            yield short_line(f"column {name}: expected {kind}, found {types[name]}")
    unknown = sorted({name for name, _ in found} - {*expected, "natural"})
    if unknown:
        listed = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        yield short_line(f"expected only the columns of the sample and its modalities, found {listed}")
    if len(types) < len(found):
        repeated = next(name for name, _ in found if [other for other, _ in found].count(name) > 1)
        yield short_line(f"expected each column once, found {repeated!r} several times")


def sample_faults(path: Path, samples: Samples, draws: int, declared: Sequence[str] = ()) -> Iterator[str]:
    """Faults of a table that could be read: samples that occur more than once (in test more than ``draws`` times), and
    groups in several splits unless faults of the data are ``declared``."""
    where = printable(path)
    for index, (split, most) in enumerate(zip(SPLITS, (1, 1, draws), strict=True)):
        ids, counts = np.unique(samples.ids[samples.split == index], return_counts=True)
        if (counts > most).any():
            times = "once" if most == 1 else f"at most {most} times (draws)"
            sample = "training sample" if split == "train" else f"{split} sample"
            found = first_values(ids[counts > most])
            yield f"{where}: column id: expected each {sample} {times}, found {found} more often"
    in_one_split = [("id", "sample", samples.ids)] + ([] if declared else [("group", "group", samples.cluster_ids)])
    for column, unit, values in in_one_split:
        several = _keys_with_several(values, samples.split)
        if len(several):
            found = f"found {first_values(several)} in several, which leaks held-out data into training"
            yield f"{where}: column {column}: expected each {unit} in one split, {found}"
    labels = samples.labels if samples.labels.ndim == 1 else np.unique(samples.labels, axis=0, return_inverse=True)[1]
    for column, values in (("label", labels), ("group", samples.cluster_ids), ("natural", samples.natural_ids)):
        several = _keys_with_several(samples.ids, values)
        if len(several):
            found = f"found several for {first_values(several)}"
            yield f"{where}: column {column}: expected one value for each id, {found}"


def _keys_with_several(keys: IntArray, values: IntArray) -> IntArray:
    """The ``keys`` that occur with more than one of ``values``."""
    pairs = np.unique(np.stack([keys, values.reshape(-1)]), axis=1)[0]
    return np.unique(pairs)[np.unique(pairs, return_counts=True)[1] > 1]


def first_values(values: IntArray) -> str:
    """The smallest five of ``values``, for a message."""
    known = np.unique(values)
    return f"{', '.join(map(str, known[:5]))}{', ...' if len(known) > 5 else ''}"

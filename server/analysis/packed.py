"""Packed sweeps: the results of a sweep in a few Parquet files, small enough to commit or to publish.

A packed sweep is a folder with

- ``sweep.yaml``: the definition of the sweep, as in its directory, without the list of trials;
- ``trials.parquet``: the frame of ``load_trials``, one row per trial, with its provenance and the text of its
  ``config.yaml``, ``manifest.json`` and ``result.json``;
- ``curves.parquet``: the lines of ``metrics.jsonl``, a row per trial, round and split, where trials have any;
- ``predictions.parquet``: the predictions of trials, a row per trial, test sample and mask, where they are packed;
- the CSV of published values, if the ``table`` section names one.

``fedrecon table``, ``plot`` and ``report`` read it like the directory of the sweep, and ``unpack`` restores that
directory. Checkpoints, models, logs, reports and the lines of single sites (``sites.jsonl``) are not packed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fedrecon_core.errors import DataError, RunError, UsageError
from fedrecon_core.files import DISK_ERRORS, reason, replace_file
from server.analysis.trials import (
    FILES,
    METRICS,
    MISSING,
    NUMBERS,
    PARAMS,
    TEXTS,
    VERSIONS,
    Sweep,
    curve_lines,
    load_sweep,
    trial_frame,
)
from server.runs.directory import write_text
from server.runs.formatting import listing
from server.sweep.record import PACKED_TRIALS, SWEEP, TRIALS, State, is_packed, read_sweep

CURVES, PREDICTIONS = "curves.parquet", "predictions.parquet"
AGAIN = "copy it again, or pack the sweep again (`fedrecon pack`)"


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type has text, or only missing values."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_null(value))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type has numbers, or only missing values."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def is_text_list(kind: pa.DataType) -> bool:
    """Whether a column of this type has lists of text."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_text(kind.value_type)


Check = Callable[[pa.DataType], bool]
_TYPE_NAMES: dict[Check, str] = {is_text: "text", is_number: "numbers", is_text_list: "lists of text"}


def read_packed(directory: Path) -> Sweep:
    """Read the packed sweep in ``directory``.

    Raises:
        DataError: a file is missing or damaged, or it lacks a column, or a column has another type.
    """
    record, path = read_sweep(directory), directory / PACKED_TRIALS
    params = [PARAMS + name for name in record.parameters]
    columns: dict[str, Check] = dict.fromkeys(("trial", *params, *TEXTS), is_text)
    columns |= {**dict.fromkeys(NUMBERS, is_number), "protocol_faults": is_text_list}
    prefixes = {METRICS: is_number, MISSING: is_number, VERSIONS: is_text}
    table = _read(path, columns, prefixes)
    names = table["trial"].to_pylist()
    if odd := [name for name in names if not _is_plain(name)]:
        raise DataError(f"{path}: expected names of folders in the column 'trial', found {odd[0]!r}; {AGAIN}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: expected one row per trial, found two of {twice!r}; {AGAIN}")
    known = {"status": [str(state) for state in State]}
    known |= {PARAMS + name: values for name, values in record.parameters.items()}
    for column, values in known.items():
        if odd := [value for value in table[column].to_pylist() if value not in values]:
            found = f"expected one of {listing(values)} in the column '{column}', found {odd[0]!r}"
            raise DataError(f"{path}: {found}; {AGAIN}")
    trials = trial_frame(table.to_pylist(), record.parameters)
    numbers = trials.select_dtypes("number")
    if np.isinf(numbers).any(axis=None):
        raise DataError(f"{path}: expected finite numbers, found infinite ones; {AGAIN}")
    return Sweep(directory, record.name, record.parameters, record.table, trials, packed=True)


def read_curves(directory: Path) -> pd.DataFrame:
    """Return the curves of a packed sweep, as ``load_curves`` does; ``DataError`` as for ``read_packed``."""
    if not (directory / CURVES).is_file():
        return pd.DataFrame(columns=["trial", "round", "split"])
    columns: dict[str, Check] = {"trial": is_text, "round": is_number, "split": is_text}
    found: pd.DataFrame = _read(directory / CURVES, columns, {"": is_number}).to_pandas()
    return found


def read_predictions(directory: Path) -> dict[str, pa.Table]:
    """Return trial -> its predictions, as in the trial's own ``predictions.parquet``.

    Raises:
        DataError: as for ``read_packed``.
    """
    if not (directory / PREDICTIONS).is_file():
        return {}
    table = _read(directory / PREDICTIONS, {"trial": is_text})
    names = table["trial"].combine_chunks().dictionary_encode() if len(table) else None
    if names is None:
        return {}
    codes = names.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    table, codes = table.drop_columns("trial").take(pa.array(order)), codes[order]
    found = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        start, stop = np.searchsorted(codes, [code, code + 1])
        own = table.slice(start, stop - start)
        found[name] = own.drop_columns([c for c in own.column_names if own[c].null_count == len(own)])
    return found


def _read(path: Path, columns: Mapping[str, Check], prefixes: Mapping[str, Check] | None = None) -> pa.Table:
    """Read a table and check the types of ``columns``, and of other columns whose names begin with ``prefixes``."""
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
    except (OSError, ValueError, pa.ArrowException) as error:
        text = (
            reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        )
        raise DataError(f"{path} cannot be read ({text}); {AGAIN}") from None
    for name, check in columns.items():
        if name not in table.column_names:
            raise DataError(f"{path}: expected a column '{name}' of {_TYPE_NAMES[check]}, found none; {AGAIN}")
    for field in table.schema:
        checks = [check for prefix, check in (prefixes or {}).items() if field.name.startswith(prefix)]
        for check in [columns[field.name]] if field.name in columns else checks:
            if not check(field.type):
                found = f"expected {_TYPE_NAMES[check]} in the column '{field.name}', found {field.type}"
                raise DataError(f"{path}: {found}; {AGAIN}")
    return table


def _is_plain(name: Any) -> bool:
    """Whether ``name`` is the name of a file or folder, and not a path to another place."""
    return isinstance(name, str) and name == Path(name).name and not name.startswith(".")


def pack(source: Path, out: Path, predictions: Sequence[str] | None = ()) -> list[Path]:
    """Pack the sweep in ``source`` into the folder ``out`` and return the files that were written.

    ``predictions`` chooses the trials whose predictions are packed, by ``parameter=value,value``; None packs none.
    Files of a packed sweep of the same name in ``out`` are replaced; others, such as tables and figures, stay.

    Raises:
        UsageError: ``out`` has other files; ``DataError`` where ``source`` cannot be read or packed; ``RunError``
            where a file cannot be written.
    """
    sweep = load_sweep(source)
    if sweep.packed:
        raise UsageError(f"{source} is packed already; expected the directory of a sweep")
    _check_out(out, sweep.name)
    raw = yaml.safe_load((source / SWEEP).read_text(encoding="utf-8"))
    hashes = {str(trial["folder"]): trial.get("config_sha256") for trial in raw.pop("cells")}
    lines = [{"trial": trial, **line} for trial in sweep.names for line in curve_lines(sweep.directory_of(trial))]
    curves = pa.table({key: pa.array([line.get(key) for line in lines]) for key in _merged_order(lines)})
    predicted = None if predictions is None else _prediction_table(sweep.only(predictions))
    written = {
        PACKED_TRIALS: _trial_table(sweep, hashes),
        **({CURVES: curves} if len(curves) else {}),
        **({PREDICTIONS: predicted} if predicted is not None else {}),
    }
    path = out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (CURVES, PREDICTIONS):
            if name not in written:
                (out / name).unlink(missing_ok=True)
        for name, table in written.items():
            path = out / name
            replace_file(path, partial(pq.write_table, table, compression="zstd", compression_level=19))
        if reference := _reference(sweep):
            path = out / reference.name
            content = reference.read_bytes()
            replace_file(path, lambda place: place.write_bytes(content))
    except DISK_ERRORS as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from None
    write_text(out / SWEEP, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return [out / SWEEP, *(out / name for name in written)]


def _check_out(out: Path, name: str) -> None:
    """Raise ``UsageError`` unless ``out`` is new, empty, or a packed sweep of this name."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_packed(out):
        raise UsageError(f"{out}: expected a new or empty folder, or a packed sweep; choose another folder")
    if (found := read_sweep(out).name) != name:
        raise UsageError(f"{out} holds the sweep '{found}', and this one is '{name}'; choose another folder")


def _reference(sweep: Sweep) -> Path | None:
    """Return the CSV of published values in the folder of the sweep; None if there is none."""
    name = sweep.table.get("reference")
    path = sweep.directory / str(name)
    return path if _is_plain(name) and path.is_file() else None


def _trial_table(sweep: Sweep, hashes: Mapping[str, Any]) -> pa.Table:
    trials = sweep.trials.reset_index()
    trials["config_sha256"] = trials["trial"].map(hashes)
    columns = {}
    for name in trials:
        values = trials[name].astype(object).where(trials[name].notna(), None).tolist()
        kind = pa.list_(pa.string()) if name == "protocol_faults" else pa.string()
        columns[name] = pa.array(values, pa.float64() if pd.api.types.is_float_dtype(trials[name]) else kind)
    return pa.table(columns)


def _merged_order(sequences: Iterable[Iterable[str]]) -> list[str]:
    """Return the names in all ``sequences``, each once; an order that they share is kept."""
    merged: list[str] = []
    for sequence in sequences:
        place = 0
        for name in sequence:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged


def _prediction_table(sweep: Sweep) -> pa.Table | None:
    tables = []
    for trial in sweep.names:
        path = sweep.directory_of(trial) / PREDICTIONS
        if path.is_file():
            table = _read(path, {}).replace_schema_metadata(None)
            tables.append(table.add_column(0, "trial", pa.array([trial] * len(table))))
    try:
        joined = pa.concat_tables(tables, promote_options="permissive") if tables else None
        return joined and joined.select(_merged_order(table.column_names for table in tables))
    except pa.ArrowException as error:
        text = " ".join(str(error).split())
        raise DataError(f"{sweep.directory}: predictions of these trials do not fit into one table: {text}") from None


def unpack(source: Path, out: Path) -> int:
    """Restore the directory of the packed sweep ``source`` in ``out``, where ``fedrecon sweep`` can continue it.
    Returns the number of run directories.

    Raises:
        UsageError: ``out`` is no new or empty folder; ``DataError`` as for ``read_packed``; ``RunError`` where a file
            cannot be written.
    """
    sweep = load_sweep(source)
    if not sweep.packed:
        raise UsageError(f"{source} is not packed; expected a folder that `fedrecon pack` made")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out}: expected a new or empty folder; choose another")
    raw = yaml.safe_load((source / SWEEP).read_text(encoding="utf-8"))
    hashes = sweep.trials.get("config_sha256", pd.Series(None, sweep.trials.index, dtype=object))
    raw["cells"] = [
        {"labels": sweep.labels(trial), "config_sha256": hashes[trial], "folder": trial} for trial in sweep.trials.index
    ]
    predictions = read_predictions(source)
    curves: dict[str, list[str]] = {}
    if (source / CURVES).is_file():
        read_curves(source)  # checked
        for line in pq.read_table(source / CURVES).to_pylist():
            kept = {key: value for key, value in line.items() if value is not None}
            curves.setdefault(kept.pop("trial"), []).append(json.dumps(kept) + "\n")
    path = out
    try:
        for trial in sweep.trials.index:
            path = out / TRIALS / trial
            texts = {name: sweep.trials.at[trial, column] for column, name in FILES.items()}
            texts["metrics.jsonl"] = "".join(curves.get(trial, ()))
            kept = {name: text for name, text in texts.items() if text}
            if kept or trial in predictions:
                path.mkdir(parents=True)
            for name, text in kept.items():
                (path / name).write_text(text, encoding="utf-8")
            if trial in predictions:
                pq.write_table(predictions[trial], path / PREDICTIONS)
        if reference := _reference(sweep):
            (out / reference.name).write_bytes(reference.read_bytes())
    except DISK_ERRORS as error:
        raise RunError(f"cannot write {path}: {reason(error)}") from None
    write_text(out / SWEEP, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return len(list((out / TRIALS).iterdir())) if (out / TRIALS).is_dir() else 0

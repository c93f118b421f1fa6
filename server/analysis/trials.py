"""The trials of a sweep as one DataFrame: the data model behind its tables, figures and report.

``load_trials`` reads the directory of a sweep, complete or not, or a packed sweep (``server.analysis.packed``). The
frame has one row per trial, in the order of the sweep; its index, ``trial``, is the name of the trial's run directory.
A value that the run did not record, or that cannot be read, is missing (``NaN`` or ``None``).

======================== ========== =============================================================================
column                   type       content
======================== ========== =============================================================================
``params.<parameter>``   category   value of a parameter of the sweep; the categories are in the sweep's order
``status``               str        ``complete``, ``failed``, ``unfinished`` or ``missing`` (``State``)
``error``                str        why the trial failed
``metrics.<metric>``     float      test score at the best validation round; ``metrics.n`` is the number of samples
``missing.<split>``      float      share of the values that were missing, the mean over the modalities
``bytes``                float      tensor bytes in both directions, all sites and rounds
``parameters``           float      number of parameters in all parameter groups
``train_seconds``, ``train_processor_seconds``, ``wall_seconds`` (float): training by the clock, training on the sites'
                         processors, and the whole run
``rounds``, ``best_round`` float    rounds that were run, and the one with the best validation score
``sites``, ``sites_out`` float      all sites, and those without any training sample under their mask
``target``, ``classes``  str, float ``multiclass`` or ``multilabel``, and the number of classes
``select``               str        the metric that chose the best round
``protocol_faults``      list[str]  known faults in the protocol of the data set
``code_sha256``, ``device``, ``engine``, ``versions.<package>`` (str): what made the trial
``config``, ``manifest``, ``result`` (str): the files ``config.yaml``, ``manifest.json`` and ``result.json`` as text
======================== ========== =============================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from server.runs.readers import json_mapping, yaml_mapping
from server.runs.record import entries, mapping, number, read_metrics
from server.sweep.parameters import no_match, parse_only
from server.sweep.record import TRIALS, State, is_packed, read_sweep

FILES = {"config": "config.yaml", "manifest": "manifest.json", "result": "result.json"}
"""Column -> the file of a run directory whose text it contains."""
TEXTS = ("status", "error", "target", "select", "code_sha256", "device", "engine", *FILES)
NUMBERS = (
    *("bytes", "parameters", "train_seconds", "train_processor_seconds", "wall_seconds"),
    *("rounds", "best_round", "sites", "sites_out", "classes"),
)
PARAMS, METRICS, MISSING, VERSIONS = "params.", "metrics.", "missing.", "versions."
"""Prefixes of columns."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read from ``directory``. ``parameters``: parameter -> its values, the seed last. ``table``: the
    section of that name in ``sweep.yaml``. ``trials``: the frame of all trials. ``packed``: whether the trials are
    stored in Parquet files instead of run directories."""

    directory: Path
    name: str
    parameters: dict[str, list[str]]
    table: Mapping[str, Any]
    trials: pd.DataFrame = field(repr=False)
    packed: bool = False

    @property
    def complete(self) -> pd.DataFrame:
        """The complete trials."""
        return self.trials[self.trials["status"] == State.COMPLETE]

    @property
    def names(self) -> list[str]:
        """The names of the trials, in their order."""
        return [str(name) for name in self.trials.index]

    def value(self, trial: str, column: str) -> Any:
        """The value of one trial in a column of ``trials``."""
        return self.trials.at[trial, column]

    def labels(self, trial: str) -> dict[str, str]:
        """Parameter -> value of one trial."""
        return {name: str(self.value(trial, PARAMS + name)) for name in self.parameters}

    def directory_of(self, trial: str) -> Path:
        """The run directory of a trial; there is none in a packed sweep."""
        return self.directory / TRIALS / trial

    def only(self, choice: Sequence[str]) -> Sweep:
        """The sweep with only the trials that match every ``parameter=value,value`` of ``choice``; ``UsageError`` if it
        names something unknown, or if no trial matches."""
        trials = self.trials
        for parameter, values in parse_only(choice, self.parameters).items():
            trials = trials[trials[PARAMS + parameter].isin(values)]
        if choice and trials.empty:
            raise no_match(choice)
        return replace(self, trials=trials)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The learning curves (``load_curves``)."""
        if self.packed:
            from server.analysis.packed import read_curves

            found = read_curves(self.directory)
            return found[found["trial"].isin(self.complete.index)]
        names = self.complete.index
        lines = [{"trial": trial, **line} for trial in names for line in curve_lines(self.directory_of(trial))]
        return pd.DataFrame(lines, columns=None if lines else ["trial", "round", "split"])


def load_trials(directory: Path) -> pd.DataFrame:
    """Load all trials of the sweep in ``directory``, one per row, with the columns above.

    Raises:
        DataError: ``directory`` is neither a sweep nor a packed sweep, or its files are damaged.
    """
    return load_sweep(directory).trials


def load_curves(directory: Path) -> pd.DataFrame:
    """Load the learning curves of the complete trials: one row per line of ``metrics.jsonl``.

    Columns: ``trial``, ``round``, ``split``, and every number in these lines under its name.

    Raises:
        DataError: as for ``load_trials``.
    """
    return load_sweep(directory).curves


def load_sweep(directory: Path) -> Sweep:
    """Read the sweep in ``directory``; errors as for ``load_trials``."""
    if is_packed(directory):
        from server.analysis.packed import read_packed

        return read_packed(directory)
    record = read_sweep(directory)
    rows = []
    for trial in record.trials:
        params = {PARAMS + name: trial.labels[name] for name in record.parameters}
        status = {"status": str(trial.status)}
        rows.append({"trial": trial.directory.name, **params, **status, **_read_run(trial.directory)})
    return Sweep(directory, record.name, record.parameters, record.table, trial_frame(rows, record.parameters))


def trial_frame(rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Make a frame with the types of the schema; a column of the schema that no row has is all missing."""
    frame = pd.DataFrame(list(rows), columns=None if rows else ["trial"]).set_index("trial")
    for name, values in parameters.items():
        kind = pd.CategoricalDtype(list(dict.fromkeys(values)), ordered=True)
        frame[PARAMS + name] = frame[PARAMS + name].astype(kind) if rows else pd.Series(dtype=kind)
    for name in (*NUMBERS, *(str(column) for column in frame if str(column).startswith((METRICS, MISSING)))):
        frame[name] = frame[name].astype(float) if name in frame else float("nan")
    for name in (*TEXTS, "protocol_faults", *(str(column) for column in frame if str(column).startswith(VERSIONS))):
        texts = frame[name].astype(object) if name in frame else pd.Series(None, frame.index, dtype=object)
        frame[name] = texts.where(texts.notna(), None)
    return frame


def curve_lines(directory: Path) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl`` in a run directory that have a round and a split, with their numbers only."""
    lines = []
    for line in read_metrics(directory).metrics:
        numbers = {key: value for key, value in line.items() if type(value) in (int, float)}
        if type(numbers.get("round")) is int and isinstance(line.get("split"), str):
            lines.append({key: line[key] for key in line if key == "split" or key in numbers})
    return lines


def _read_run(directory: Path) -> dict[str, Any]:
    """Return the columns that come from the files of one run directory."""
    texts = {column: _text(directory / name) for column, name in FILES.items()}
    result, manifest = json_mapping(texts["result"] or "") or {}, json_mapping(texts["manifest"] or "") or {}
    config = yaml_mapping(texts["config"] or "") or {}
    samples = [number(mapping(site).get("samples")) for site in entries(manifest.get("sites"))]
    rates = {split: _numbers(found) for split, found in mapping(manifest.get("effective_missing")).items()}
    return {
        "error": _string(result.get("error")),
        **{f"{METRICS}{name}": score for name, score in _numbers(result.get("test")).items()},
        **{f"{MISSING}{split}": fmean(found.values()) for split, found in rates.items() if found},
        "bytes": total([number(result.get(key)) for key in ("bytes_down", "bytes_up")]),
        "parameters": total([number(count) for count in mapping(manifest.get("parameters")).values()]),
        **{
            key: number(result.get(key))
            for key in ("train_seconds", "train_processor_seconds", "wall_seconds", "rounds", "best_round")
        },
        "sites": float(len(samples)) if samples else None,
        "sites_out": float(samples.count(0.0)) if samples and None not in samples else None,
        "target": _string(manifest.get("target")),
        "classes": float(len(entries(manifest.get("classes")))),
        "select": _string(mapping(config.get("evaluate")).get("select")),
        "protocol_faults": [str(fault) for fault in entries(manifest.get("protocol_faults"))],
        **{key: _string(manifest.get(key)) for key in ("code_sha256", "device", "engine")},
        **{f"{VERSIONS}{name}": _string(version) for name, version in mapping(manifest.get("versions")).items()},
        **texts,
    }


def _text(path: Path) -> str | None:
    """Return the text of a file; None if it is missing or not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _string(value: Any) -> str | None:
    return str(value) if value else None


def _numbers(value: Any) -> dict[str, float]:
    return {str(key): found for key, item in mapping(value).items() if (found := number(item)) is not None}


def mean_curve(
    curves: pd.DataFrame, trials: Iterable[str], metric: str, split: str = "validation"
) -> list[tuple[float, float]]:
    """Return (round, mean score) of those ``trials`` that have a curve, for the rounds that all of these scored.

    Args:
        curves: the frame of ``load_curves``.
        trials: names of trials.
        metric: a column of ``curves``.
        split: ``train``, ``validation`` or ``test``.
    """
    if metric not in curves:
        return []
    own = curves[curves["trial"].isin(list(trials)) & (curves["split"] == split)]
    own = own.dropna(subset=[metric]).drop_duplicates(["trial", "round"], keep="last")  # a resumed run repeats rounds
    scores = own.pivot(index="round", columns="trial", values=metric).dropna()
    return [(float(turn), fmean(values)) for turn, values in zip(scores.index, scores.to_numpy(), strict=True)]


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum of ``values``; None if one of them is unknown (None or NaN), or if there is none."""
    found = pd.Series(list(values), dtype=float)
    return None if found.empty or found.isna().any() else sum(found)


def mean_of(values: pd.Series) -> float | None:
    """Return the mean of ``values``; None if one of them is missing, or if there is none."""
    return None if values.empty or values.isna().any() else fmean(values)

"""``predictions.parquet`` of a run, counted by cluster: what a bootstrap over subjects or source images draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.registry import METRICS
from server.analysis.prediction_errors import RefusedError
from server.runs.formatting import listing

FILE = "predictions.parquet"
SAME_SCORE = 1e-9
Rows = Callable[[pa.Table], NDArray[np.bool_]]
"""Predictions -> which of the test samples count."""
Count = Callable[[pa.Table, tuple[int, int], NDArray[np.intp]], NDArray[np.int64]]


@dataclass(frozen=True)
class Answers:
    """``clusters``: the groups of the test samples, sorted. ``confusion`` int64 [G, ...]: the answers to each of them,
    as ``Counts.confusion``. ``samples``: a hash of the samples and their labels, by which two runs are known to have
    been asked the same. ``missing``: the share of their values that were missing, the mean over the modalities."""

    clusters: tuple[int, ...]
    confusion: NDArray[np.int64]
    samples: str
    missing: float | None = None

    def score(self, metric: type[Metric]) -> float:
        """The metric over all clusters; ``ValueError`` if it needs more than the answers."""
        return metric.compute(Counts(torch.from_numpy(self.confusion.sum(axis=0))))

    def told(self, names: Iterable[str]) -> dict[str, float]:
        """The scores among ``names`` that answers alone can tell."""
        found: dict[str, float] = {}
        for name in names:
            if name in METRICS.names():
                try:
                    found[name] = self.score(METRICS.get(name))
                except ValueError:  # it needs more than answers
                    continue
        return found

    def scores(self, metric: type[Metric], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """[D]: the metric in each of D resamples; ``weights`` [D, G] says how often a cluster stands in each."""
        flat = self.confusion.reshape(len(self.clusters), -1).astype(np.float64)
        sums = np.rint(weights @ flat).astype(np.int64).reshape(len(weights), *self.confusion.shape[1:])
        return metric.compute_each(torch.from_numpy(sums)).numpy()


def shown(predictions: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """Modality -> which of the test samples show it."""
    names = (name for name in predictions.column_names if name.startswith("has_"))
    return {name.removeprefix("has_"): predictions[name].to_numpy().astype(bool) for name in names}


def shows_something(predictions: pa.Table) -> NDArray[np.bool_]:
    """Without the samples that show no modality: no score counts them among the others."""
    found = shown(predictions)
    return np.any(list(found.values()), axis=0) if found else np.ones(len(predictions), dtype=bool)


def read_answers(directory: Path, target: str, classes: int, rows: Rows = shows_something) -> Answers:
    """Count what the run in ``directory`` said of ``rows`` of a test set of ``classes`` classes.

    Raises:
        RefusedError: there is no such file, or none that can be read; or the manifest did not say what was asked.
    """
    path, cell = directory / FILE, directory.name
    if target not in _COUNTS or classes < 1:
        told = f"expected a target ({', '.join(_COUNTS)}) and classes, found '{target}' and {classes} classes"
        raise RefusedError(f"manifest.json: {told}", cell)
    if not path.is_file():
        raise RefusedError(f"{FILE} is not there", cell)
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))  # whose errors name no path
        return _counted(table.filter(pa.array(rows(table))), _COUNTS[target], classes)
    except (OSError, pa.ArrowException, ValueError, IndexError, KeyError, TypeError) as error:
        raise RefusedError(f"{FILE} is damaged", f"{cell}: {_said(error)}") from None


def check_scores(answers: Answers, scores: Mapping[str, float], cell: str) -> None:
    """Predictions that were copied from elsewhere, or belong to another attempt, must not speak for a run.

    Raises:
        RefusedError: ``answers`` of all rows score otherwise than the result of ``cell`` says, in one of ``scores``.
    """
    for name, score in answers.told(scores).items():
        if not abs(score - scores[name]) <= SAME_SCORE:
            found = f"{cell}: {name} {score:.6f} instead of {scores[name]:.6f}"
            raise RefusedError("the predictions score otherwise than the result says", found)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _counted(table: pa.Table, count: Count, classes: int) -> Answers:
    clusters, place = np.unique(table["group"].to_numpy(), return_inverse=True)
    asked = repr([table[name].to_pylist() for name in ("id", "group", "label")])
    confusion = count(table, (len(clusters), classes), place)
    samples, present = hashlib.sha256(asked.encode()).hexdigest(), list(shown(table).values())
    missing = 1 - float(np.mean(present)) if present and len(table) else None
    return Answers(tuple(map(int, clusters)), confusion, samples, missing)


def _classes(values: Any, classes: int) -> NDArray[np.intp]:
    """``values`` as places of classes, of which NumPy would count negative ones from the end."""
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"expected whole numbers for classes, found {found.dtype}")
    if wrong := sorted({*found[(found < 0) | (found >= classes)].tolist()}):
        raise ValueError(f"expected classes from 0 to {classes - 1}, found {listing(list(map(str, wrong)))}")
    return found.astype(np.intp)


def _multiclass(table: pa.Table, shape: tuple[int, int], place: NDArray[np.intp]) -> NDArray[np.int64]:
    """[G, C, C]; ``place`` is the position of each row's cluster."""
    confusion = np.zeros((*shape, shape[1]), dtype=np.int64)
    truth, said = (_classes(table[name].to_numpy(), shape[1]) for name in ("label", "predicted"))
    np.add.at(confusion, (place, truth, said), 1)
    return confusion


def _multilabel(table: pa.Table, shape: tuple[int, int], place: NDArray[np.intp]) -> NDArray[np.int64]:
    """[G, C, 2, 2]."""
    confusion = np.zeros((*shape, 2, 2), dtype=np.int64)
    truth, said = (_marked(table[name].to_pylist(), shape[1]) for name in ("label", "predicted"))
    np.add.at(confusion, (place[:, None], np.arange(shape[1]), truth, said), 1)
    return confusion


def _marked(lists: list[list[int]], classes: int) -> NDArray[np.int64]:
    """[N, C] of zeros and ones."""
    marks = np.zeros((len(lists), classes), dtype=np.int64)
    for row, places in zip(marks, lists, strict=True):
        row[_classes(places, classes)] = 1
    return marks


_COUNTS: dict[str, Count] = {"multiclass": _multiclass, "multilabel": _multilabel}

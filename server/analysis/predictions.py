"""Predictions of trials, counted by group of test samples, for intervals and for scores on a part of the samples.

``predictions.parquet`` of a trial has one row per test sample and mask: ``id``, ``group`` (the subject or the source
image, which a bootstrap draws), ``label``, ``predicted``, and ``has_<modality>``. Predictions that are missing,
damaged, or from another run than the scores in the same folder are not used; a ``PredictionFault`` gives the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrecon_core.errors import DataError, UsageError
from fedrecon_core.metrics.base import Counts, Metric
from fedrecon_core.registry import METRICS
from server.analysis.trials import Sweep
from server.runs.formatting import listing, plural

FILE = "predictions.parquet"
SAME_SCORE = 1e-9
Rows = Callable[[pa.Table], NDArray[np.bool_]]
"""Predictions -> bool [N]: which test samples count."""


@dataclass(frozen=True)
class PredictionFault:
    """Why predictions are not used. ``why`` is the same text for all trials with the same fault; ``trials`` are their
    names, each with what was found there. Neither contains a path, so that a copied sweep has the same tables."""

    why: str
    trials: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``no predictions.parquet (mask-1 and mask-2)``."""
        return f"{self.why} ({listing(list(self.trials))})" if self.trials else self.why


class PredictionsError(DataError):
    """Predictions cannot be used, or not for this purpose."""

    def __init__(self, why: str, *trials: str) -> None:
        self.fault = PredictionFault(why, trials)
        super().__init__(str(self.fault))


def merged(faults: Iterable[PredictionFault]) -> list[PredictionFault]:
    """One fault for each reason, with all of its trials."""
    found: dict[str, dict[str, None]] = {}
    for fault in faults:
        found.setdefault(fault.why, {}).update(dict.fromkeys(fault.trials))
    return [PredictionFault(why, tuple(trials)) for why, trials in found.items()]


@dataclass(frozen=True)
class PredictionCounts:
    """The predictions of one trial, counted. ``groups``: the groups of the test samples, sorted. ``confusion`` int64
    [G, ...]: the predictions for each group, as in ``Counts.confusion``. ``samples``: a hash of the samples and their
    labels; two trials with the same hash were scored on the same samples. ``missing``: the share of the values of these
    samples that were missing, the mean over the modalities."""

    groups: tuple[int, ...]
    confusion: NDArray[np.int64]
    samples: str
    missing: float | None = None

    def score(self, metric: type[Metric]) -> float:
        """The metric over all groups; ``ValueError`` if the metric needs more than the predicted classes."""
        return metric.compute(Counts(self.confusion.sum(axis=0)))

    def scores(self, names: Iterable[str]) -> dict[str, float]:
        """Those metrics among ``names`` that can be computed from the predicted classes alone."""
        found: dict[str, float] = {}
        for name in names:
            if name in METRICS.names():
                try:
                    found[name] = self.score(METRICS.get(name))
                except ValueError:  # it needs more than the classes
                    continue
        return found

    def resampled(self, metric: type[Metric], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """[D]: the metric in each of D resamples; ``weights`` [D, G] says how often each group was drawn."""
        flat = self.confusion.reshape(len(self.groups), -1).astype(np.float64)
        sums = np.rint(weights @ flat).astype(np.int64).reshape(len(weights), *self.confusion.shape[1:])
        return metric.compute_each(sums)


def present(predictions: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """Modality -> bool [N]: which test samples have it."""
    names = (name for name in predictions.column_names if name.startswith("has_"))
    return {name.removeprefix("has_"): predictions[name].to_numpy().astype(bool) for name in names}


def not_empty(predictions: pa.Table) -> NDArray[np.bool_]:
    """Select the samples with at least one modality; no score counts the others."""
    found = present(predictions)
    return np.any(list(found.values()), axis=0) if found else np.ones(len(predictions), dtype=bool)


@dataclass(frozen=True)
class Shown:
    """The samples that have exactly the modalities ``names`` or, without any, exactly ``count`` modalities."""

    names: frozenset[str] = frozenset()
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Shown:
        """Read ``1`` or ``acc,gyro``, as on the command line; ``UsageError`` for anything else."""
        words = [word.strip() for word in text.split(",")]
        if len(words) == 1 and words[0].isdecimal() and int(words[0]) > 0:
            return cls(count=int(words[0]))
        if not all(words) or any(word.isdecimal() for word in words):
            raise UsageError(
                f"--shown: expected a number of modalities (1 or more), or names of modalities, found '{text}'"
            )
        return cls(frozenset(words))

    def __str__(self) -> str:
        """``acc and gyro alone``, ``1 modality``."""
        return f"{listing(sorted(self.names))} alone" if self.names else plural(self.count, "modality", "modalities")

    def __call__(self, predictions: pa.Table) -> NDArray[np.bool_]:
        """Select samples of ``predictions``, bool [N]; no sample if the data do not have one of the modalities."""
        found = present(predictions)
        if not found or not self.names <= set(found):
            return np.zeros(len(predictions), dtype=bool)
        if not self.names:
            return np.asarray(np.sum(list(found.values()), axis=0) == self.count)
        return np.asarray(np.all([column == (name in self.names) for name, column in found.items()], axis=0))


class Predictions:
    """The predictions of a sweep's trials, each read and counted once. ``rows`` chooses the test samples."""

    def __init__(self, sweep: Sweep, rows: Rows = not_empty) -> None:
        self._sweep, self._rows = sweep, rows
        self._counts: dict[str, PredictionCounts] = {}
        self._packed: Mapping[str, pa.Table] | None = None

    def counts(self, trial: str) -> PredictionCounts:
        """Return the counts of one trial.

        Raises:
            PredictionsError: its predictions are missing or damaged, or its manifest lacks target or classes.
        """
        if trial not in self._counts:
            target, classes = (self._sweep.value(trial, column) for column in ("target", "classes"))
            self._counts[trial] = count(self.table, trial, target or "", int(classes), self._rows)
        return self._counts[trial]

    def table(self, trial: str) -> pa.Table | None:
        """Return the predictions of one trial, one row per test sample and mask; None if it has none."""
        if not self._sweep.packed:
            path = self._sweep.directory_of(trial) / FILE
            return pq.read_table(pa.BufferReader(path.read_bytes())) if path.is_file() else None  # errors name no path
        if self._packed is None:
            from server.analysis.packed import read_predictions

            self._packed = read_predictions(self._sweep.directory)
        return self._packed.get(trial)


def count(
    read: Callable[[str], pa.Table | None], trial: str, target: str, classes: int, rows: Rows = not_empty
) -> PredictionCounts:
    """Count the predictions ``read(trial)`` of the chosen ``rows``.

    Raises:
        PredictionsError: there are no predictions, or they are damaged, or target and classes are unknown.
    """
    if target not in _CONFUSIONS or classes < 1:
        known = ", ".join(_CONFUSIONS)
        found = f"expected a target ({known}) and classes, found '{target}' and {classes} classes"
        raise PredictionsError(f"manifest.json: {found}", trial)
    try:
        table = read(trial)
        if table is None:
            raise PredictionsError(f"no {FILE}", trial)
        table = table.filter(pa.array(rows(table)))
        groups, place = np.unique(table["group"].to_numpy(), return_inverse=True)
        confusion = _CONFUSIONS[target](table, (len(groups), classes), place)
        samples = hashlib.sha256(repr([table[name].to_pylist() for name in ("id", "group", "label")]).encode())
        modalities = list(present(table).values())
        missing = 1 - float(np.mean(modalities)) if modalities and len(table) else None
        return PredictionCounts(tuple(map(int, groups)), confusion, samples.hexdigest(), missing)
    except PredictionsError:
        raise
    except (OSError, pa.ArrowException, ValueError, IndexError, KeyError, TypeError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else ""
        text = text or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise PredictionsError(f"{FILE} is damaged", f"{trial}: {text}") from None


def check_scores(counts: PredictionCounts, scores: Mapping[str, float], trial: str) -> None:
    """Check that predictions belong to a result, and not to another trial or attempt.

    Raises:
        PredictionsError: a score of the ``counts`` of all samples differs from that in the result of ``trial``.
    """
    for name, score in counts.scores(scores).items():
        if not abs(score - scores[name]) <= SAME_SCORE:
            found = f"{trial}: {name} {score:.6f} instead of {scores[name]:.6f}"
            raise PredictionsError("the scores of the predictions differ from those in result.json", found)


def _class_indices(values: Any, classes: int) -> NDArray[np.intp]:
    """Return ``values`` as class indices; negative ones, which NumPy would count from the end, are an error."""
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"expected whole numbers for classes, found {found.dtype}")
    if wrong := sorted({*found[(found < 0) | (found >= classes)].tolist()}):
        raise ValueError(f"expected classes from 0 to {classes - 1}, found {listing(list(map(str, wrong)))}")
    return found.astype(np.intp)


def _multiclass(table: pa.Table, shape: tuple[int, int], place: NDArray[np.intp]) -> NDArray[np.int64]:
    """[G, C, C]."""
    confusion = np.zeros((*shape, shape[1]), dtype=np.int64)
    label, predicted = (_class_indices(table[name].to_numpy(), shape[1]) for name in ("label", "predicted"))
    np.add.at(confusion, (place, label, predicted), 1)
    return confusion


def _multilabel(table: pa.Table, shape: tuple[int, int], place: NDArray[np.intp]) -> NDArray[np.int64]:
    """[G, C, 2, 2]."""
    confusion = np.zeros((*shape, 2, 2), dtype=np.int64)
    marks = []
    for name in ("label", "predicted"):
        marks.append(np.zeros((len(table), shape[1]), dtype=np.int64))
        for row, indices in zip(marks[-1], table[name].to_pylist(), strict=True):
            row[_class_indices(indices, shape[1])] = 1
    np.add.at(confusion, (place[:, None], np.arange(shape[1]), *marks), 1)
    return confusion


Confusion = Callable[[pa.Table, tuple[int, int], NDArray[np.intp]], NDArray[np.int64]]
"""Predictions, (G, C), the position of each row's group -> int64 [G, ...]."""
_CONFUSIONS: dict[str, Confusion] = {"multiclass": _multiclass, "multilabel": _multilabel}

"""The complete cells of a sweep as numbers: test scores, what was really missing, and what the run cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from server.analysis.prediction_counts import Answers
from server.runs.readers import json_in, yaml_in
from server.runs.record import entries, mapping, number
from server.sweep.record import State, SweepRecord, ending

SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Result:
    """One complete cell. ``labels``: axis -> level. ``missing``: split -> share of the values that were missing, the
    mean over the modalities. ``bytes``: of tensors, both ways; ``parameters``: of all groups; ``train_seconds`` and
    ``processor_seconds``: of training, by the clock and of the sites' processors; None where unknown."""

    labels: Mapping[str, str]
    directory: Path
    scores: Mapping[str, float]
    missing: Mapping[str, float]
    target: str = ""
    classes: int = 0
    bytes: float | None = None
    parameters: float | None = None
    train_seconds: float | None = None
    processor_seconds: float | None = None
    rounds: float | None = None
    best_round: float | None = None
    sites: float | None = None
    sites_out: float | None = None
    """Sites that hold no training sample under their mask, and sat out all rounds."""
    faults: tuple[str, ...] = ()
    """What is known to be wrong with the protocol of its data."""
    made: Mapping[str, str] = field(default_factory=dict)
    """By which code (the beginning of its hash) and version of PyTorch, on which device and engine; as far as known."""
    answers: Answers | None = None
    """What was said of the part of the test samples that ``scores`` are of; None where they are of all, and the answers
    have not been read."""
    select: str = ""
    """The metric that chose the best round: without other word its score is what the run is about."""


def read_results(sweep: SweepRecord) -> list[Result]:
    """The complete cells of ``sweep``, in its order."""
    return [_result(trial.labels, trial.directory) for trial in sweep.trials if trial.status is State.COMPLETE]


def mean(results: Sequence[Result], number_of: Callable[[Result], float | None]) -> float | None:
    """The mean of a number of ``results``; nothing where one of them does not know it."""
    found = [value for result in results if (value := number_of(result)) is not None]
    return fmean(found) if found and len(found) == len(results) else None


def _result(labels: Mapping[str, str], directory: Path) -> Result:
    result, manifest = ending(directory), json_in(directory / "manifest.json")
    held = [number(mapping(site).get("samples")) for site in entries(manifest.get("sites"))]
    return Result(
        labels=labels,
        directory=directory,
        scores=_numbers(result.get("test")),
        missing=_missing(manifest),
        target=str(manifest.get("target") or ""),
        classes=len(entries(manifest.get("classes"))),
        bytes=total([number(result.get(key)) for key in ("bytes_down", "bytes_up")]),
        parameters=total([number(count) for count in mapping(manifest.get("parameters")).values()]),
        train_seconds=number(result.get("train_seconds")),
        processor_seconds=number(result.get("train_processor_seconds")),
        rounds=number(result.get("rounds")),
        best_round=number(result.get("best_round")),
        sites=len(held) or None,
        sites_out=held.count(0.0) if held and None not in held else None,
        faults=tuple(map(str, entries(manifest.get("protocol_faults")))),
        made=_made(manifest),
        select=_select(directory),
    )


def _made(manifest: Mapping[str, Any]) -> dict[str, str]:
    told = {
        "code": manifest.get("code_sha256"),
        "torch": mapping(manifest.get("versions")).get("torch"),
        "device": manifest.get("device"),
        "engine": manifest.get("engine"),
    }
    return {kind: str(value)[:SHOWN_DIGITS] for kind, value in told.items() if value}


def _select(directory: Path) -> str:
    """Nothing where the config cannot be read."""
    return str(mapping(yaml_in(directory / "config.yaml").get("evaluate")).get("select") or "")


def _numbers(value: Any) -> dict[str, float]:
    return {str(key): found for key, item in mapping(value).items() if (found := number(item)) is not None}


def _missing(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Split -> mean over the modalities of the effective rates."""
    rates = {split: _numbers(found) for split, found in mapping(manifest.get("effective_missing")).items()}
    return {split: fmean(found.values()) for split, found in rates.items() if found}


def total(values: Sequence[float | None]) -> float | None:
    """Their sum; nothing where one of them is not known: a part is no sum."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None

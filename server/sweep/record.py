"""A sweep's directory read back, whole or not: what the tables of a sweep are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config.loading import load
from fedrecon_core.errors import DataError
from server.runs.readers import json_in
from server.sweep.parameters import label_of

SWEEP, TRIALS, LOG, REFERENCE = "sweep.yaml", "cells", "cell.log", "reference.csv"
"""Names in the directory of a sweep, and in those of its cells."""
PACKED_TRIALS = "trials.parquet"
"""The file of a packed sweep that takes the place of the list of trials and of their directories."""


class State(StrEnum):
    """How a cell stands. ``UNFINISHED``: it was begun and can be gone on with; ``MISSING``: nothing is on the disk."""

    COMPLETE = "complete"
    FAILED = "failed"
    UNFINISHED = "unfinished"
    MISSING = "missing"


@dataclass(frozen=True)
class TrialRecord:
    """One cell: axis -> level, its run directory (``server.runs.record.read_run`` reads it), and how it stands."""

    labels: dict[str, str]
    directory: Path
    status: State


@dataclass(frozen=True)
class SweepRecord:
    """What ``sweep.yaml`` says, and how each cell stands. ``axes`` maps an axis to the labels of its levels, in their
    order, the seed's last; ``table`` is the section of that name (``server.sweep.table.Table``), else empty."""

    name: str
    parameters: dict[str, list[str]]
    table: Mapping[str, Any] = field(default_factory=dict)
    trials: list[TrialRecord] = field(default_factory=list)


def read_sweep(directory: Path) -> SweepRecord:
    """Read the sweep in ``directory``; ``DataError`` where ``sweep.yaml`` is not there or damaged. Of a packed sweep no
    trials are read: they stand in ``trials.parquet`` (``server.analysis.packed``)."""
    path = directory / SWEEP
    try:
        raw = load(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        parameters = {
            str(parameter): [label_of(value) for value in values] for parameter, values in raw["axes"].items()
        }
        listed = () if is_packed(directory) else raw["cells"]
        trials = [_trial(directory, trial, parameters) for trial in listed]
        return SweepRecord(str(raw["name"]), parameters, dict(raw["table"] or {}), trials)
    except OSError as error:
        found = f"no {SWEEP} in it ({error.strerror})" if directory.exists() else "nothing there"
        raise DataError(f"{directory}: expected the directory that `fedrecon sweep` made, found {found}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        told = "run the sweep again to have it written anew"
        raise DataError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())}); {told}") from None


def is_packed(directory: Path) -> bool:
    """Whether ``directory`` is a packed sweep (``fedrecon pack``), whose trials have no directories."""
    return (directory / PACKED_TRIALS).is_file() and not (directory / TRIALS).is_dir()


def _trial(directory: Path, raw: Mapping[str, Any], parameters: Mapping[str, list[str]]) -> TrialRecord:
    path = directory / TRIALS / str(raw["folder"])
    labels = {str(parameter): label_of(value) for parameter, value in raw["labels"].items()}
    if set(labels) != set(parameters) or any(value not in parameters[parameter] for parameter, value in labels.items()):
        raise ValueError(f"the labels of {path.name} are no levels of the axes")
    return TrialRecord(labels, path, status_of(path))


def status_of(path: Path) -> State:
    """How the run in ``path`` stands, whatever is missing or damaged in it."""
    if not (path / "config.yaml").is_file():
        return State.MISSING
    status = ending(path).get("status")
    return {"completed": State.COMPLETE, "failed": State.FAILED}.get(str(status), State.UNFINISHED)


def ending(path: Path) -> dict[str, Any]:
    """What the run in ``path`` says of its end; empty if it says nothing that can be read."""
    return json_in(path / "result.json")

"""Read a sweep's directory, complete or not: the input of its tables, figures and reports."""

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
"""Names of files and folders in the directories of a sweep and of its trials."""
PACKED_TRIALS = "trials.parquet"
"""The file of a packed sweep that replaces the list of trials and their directories."""


class State(StrEnum):
    """The state of a trial. ``UNFINISHED``: it was started and can be resumed; ``MISSING``: it has no directory."""

    COMPLETE = "complete"
    FAILED = "failed"
    UNFINISHED = "unfinished"
    MISSING = "missing"


@dataclass(frozen=True)
class TrialRecord:
    """One trial: its labels (parameter -> value), its run directory (see ``server.runs.record``) and its state."""

    labels: dict[str, str]
    directory: Path
    status: State


@dataclass(frozen=True)
class SweepRecord:
    """The content of ``sweep.yaml`` with the state of each trial. ``parameters`` maps each parameter to the labels of
    its values, in order, the seed last; ``table`` is the section ``table`` (``server.sweep.spec.Table``), or empty."""

    name: str
    parameters: dict[str, list[str]]
    table: Mapping[str, Any] = field(default_factory=dict)
    trials: list[TrialRecord] = field(default_factory=list)


def read_sweep(directory: Path) -> SweepRecord:
    """Read the sweep in ``directory``; ``DataError`` if ``sweep.yaml`` is missing or damaged. The trials of a packed
    sweep are not read: they are in its ``trials.parquet`` (``server.analysis.packed``)."""
    path = directory / SWEEP
    try:
        raw = load(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        parameters = {str(name): [label_of(value) for value in values] for name, values in raw["axes"].items()}
        trials = []
        for trial in () if is_packed(directory) else raw["cells"]:
            run = directory / TRIALS / str(trial["folder"])
            labels = {str(name): label_of(value) for name, value in trial["labels"].items()}
            if set(labels) != set(parameters) or any(label not in parameters[name] for name, label in labels.items()):
                raise ValueError(f"the labels of {run.name} are not values of the axes")
            trials.append(TrialRecord(labels, run, state_of(run)))
        return SweepRecord(str(raw["name"]), parameters, dict(raw["table"] or {}), trials)
    except OSError as error:
        found = f"no {SWEEP} in it ({error.strerror})" if directory.exists() else "no such directory"
        raise DataError(f"{directory}: expected a directory written by `fedrecon sweep`, found {found}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "run the sweep again to rewrite it"
        raise DataError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())}); {hint}") from None


def is_packed(directory: Path) -> bool:
    """Whether ``directory`` is a packed sweep (``fedrecon pack``), whose trials have no directories."""
    return (directory / PACKED_TRIALS).is_file() and not (directory / TRIALS).is_dir()


def state_of(path: Path) -> State:
    """The state of the run directory ``path``, even if files in it are missing or damaged."""
    if not (path / "config.yaml").is_file():
        return State.MISSING
    status = read_result(path).get("status")
    return {"completed": State.COMPLETE, "failed": State.FAILED}.get(str(status), State.UNFINISHED)


def read_result(path: Path) -> dict[str, Any]:
    """The ``result.json`` of the run directory ``path``; empty if it is missing or damaged."""
    return json_in(path / "result.json")

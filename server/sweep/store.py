"""What a sweep leaves on the disk, and what is there already: ``OUT/sweep.yaml`` and a run directory per cell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import DataError, FedReconError, RunError, UsageError, describe_error, one_line
from fedrecon_core.files import reason, replace_file
from server.report.page import REPORT
from server.runs.directory import RunDirectory, Words, held, write_text
from server.runs.readers import json_in
from server.sweep.current_provenance import device_here, made_otherwise
from server.sweep.folder_swap import finish_exchanges
from server.sweep.identity import written_root, written_sha256
from server.sweep.parameters import Parameter, without_place
from server.sweep.record import LOG, REFERENCE, SWEEP, TRIALS, State, ending, read_sweep, status_of
from server.sweep.spec import Definition
from server.sweep.table import Table
from server.sweep.trials import SHOWN_DIGITS, Trial
from server.trackers.reporting import MEMORY, TRIAL

LOCK_SECONDS = 1.0
WORDS = Words("sweep", "give the same command again")


class SweepDirectory:
    """One sweep's folder. It can be moved, copied and committed. ``sweep.yaml`` does not say where the data lie; the
    ``config.yaml`` of each cell does, as that of every run (``data.root``), and is known again wherever they lie."""

    def __init__(
        self, path: Path, keep_checkpoints: bool = False, device: Callable[[RunConfig], str | None] = device_here
    ) -> None:
        """``device`` tells on what a cell's config would be run."""
        self.path = path.resolve()
        self._keep_checkpoints = keep_checkpoints
        self._device = device
        self._runs: dict[str, RunDirectory] = {}

    @property
    def trials(self) -> Path:
        """The folder of the run directories."""
        return self.path / TRIALS

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep for this process alone (``held``); makes its folder, and ends what an
        interruption left of runs that were coming back from another machine."""
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None
        with held(self.path, WORDS, LOCK_SECONDS):
            finish_exchanges(self.trials)
            yield

    def run_of(self, trial: Trial) -> RunDirectory:
        """The cell's run directory: the one under its name or, made when the config had fewer keys, one under the same
        labels whose config has the same hash today."""
        if trial.folder not in self._runs:
            self._runs[trial.folder] = RunDirectory(self._find(trial))
        return self._runs[trial.folder]

    def _find(self, trial: Trial) -> Path:
        named = self.trials / trial.folder
        if named.exists() or not self.trials.is_dir():
            return named
        length = len(trial.slug) + 1 + SHOWN_DIGITS
        older = (path for path in sorted(self.trials.iterdir()) if path.name.startswith(f"{trial.slug}-"))
        same = (path for path in older if len(path.name) == length)
        return next((path for path in same if written_sha256(path / "config.yaml") == trial.sha256), named)

    def state(self, trial: Trial) -> State:
        """How far ``cell`` is; ``UsageError`` where its folder holds another config, whose results are not its own."""
        run = self.run_of(trial)
        state = status_of(run.path)
        if state is not State.MISSING and written_sha256(run.config) != trial.sha256:
            told = "the config of another run than its name says; move it away, and the cell is run anew"
            raise UsageError(f"{run.config}: expected the config of the cell {trial.title}, found {told}")
        return state

    def begin(self, trial: Trial) -> RunDirectory:
        """The cell's run directory, ready to be worked on: with its present config (the machine that began it may have
        had another ``data.root``), without the verdict on an earlier attempt, and without rounds that were made
        otherwise than those of today would be. A cell that is complete by now, since it was copied in or gone on with
        beside the sweep, stays as it is.

        Raises:
            FedReconError: another process is at work on it, it holds another config, or it cannot be written.
        """
        run = self.run_of(trial)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{run.path} cannot be written: {error.strerror}") from None
        with run.lock(LOCK_SECONDS):
            if self.state(trial) is not State.COMPLETE:
                self._make_ready(trial, run)
        return run

    def _make_ready(self, trial: Trial, run: RunDirectory) -> None:
        if not run.config.is_file() or self.outdated(trial):  # of what run such rounds are, nothing tells
            _forget_rounds(run)
        write_text(run.config, trial.config.to_yaml())
        run.write_json(TRIAL, {"name": trial.slug, "labels": dict(trial.labels)})  # for trackers
        run.forget_result()

    def outdated(self, trial: Trial) -> str:
        """Why the cell is begun anew though it has rounds: they were made by other code than today's, on another device
        or with another PyTorch, and the numbers of two such halves are those of neither. Empty where it goes on."""
        run = self.run_of(trial)
        if run.completed() or not any(run.checkpoints.glob("round-*")):
            return ""
        return " and ".join(made_otherwise(self.manifest_of(trial), self.device_of(trial)))

    def device_of(self, trial: Trial) -> str | None:
        """The device on which the cell would be run today; None where there is none."""
        return self._device(trial.config)

    def note_failure(self, trial: Trial, reason: str, rounds: int) -> None:
        """Leave ``result.json`` with the ``reason`` where nothing says how the run ended: its process was killed, or
        lost with its machine, or could not start. A cell that another process holds stays as it is, as does a folder
        that holds another config; one that cannot be written is told by the sweep's own lines alone."""
        run = self.run_of(trial)
        with suppress(FedReconError), run.lock(LOCK_SECONDS):
            if self.state(trial) is State.UNFINISHED and not ending(run.path):
                told = {"status": "failed", "error": reason, "exit_code": 1, "rounds": rounds}
                run.write_json("result.json", told)

    def log(self, trial: Trial) -> Path:
        """What the cell's process said."""
        return self.run_of(trial).path / LOG

    def tidy(self, trial: Trial) -> None:
        """Once there is nothing to resume: write the report if its process was ended before it did, and remove what
        only a resume would need, unless it is to be kept. A report that cannot be made is told in the cell's log."""
        run = self.run_of(trial)
        if not run.completed():
            return
        if not (run.path / REPORT).exists():
            self._report(trial)
        if not self._keep_checkpoints:
            for folder in _rounds(run):
                shutil.rmtree(folder, ignore_errors=True)

    def _report(self, trial: Trial) -> None:
        from server.report.run.report import write_report  # here: it draws, and few cells lack theirs

        try:
            write_report(self.run_of(trial).path)
        except Exception as error:  # no verdict on the run depends on it
            with suppress(OSError), self.log(trial).open("a", encoding="utf-8") as file:
                file.write(f"({REPORT} could not be made: {one_line(describe_error(error))})\n")

    def strangers(self, trials: Sequence[Trial]) -> list[str]:
        """The run directories that belong to no cell of the present matrix."""
        ours = {self.run_of(trial).path.name for trial in trials}
        found = sorted(path.name for path in self.trials.iterdir()) if self.trials.is_dir() else []
        return [name for name in found if name not in ours and not name.startswith(".")]

    def manifest_of(self, trial: Trial) -> dict[str, Any]:
        """What was run, on what; empty where the cell does not say so."""
        return json_in(self.run_of(trial).path / "manifest.json")

    def root_of(self, trial: Trial) -> str | None:
        """The ``data.root`` with which the cell was made."""
        return written_root(self.run_of(trial).config)

    def seconds_of(self, trial: Trial) -> float | None:
        """The wall-clock time of a complete cell."""
        seconds = ending(self.run_of(trial).path).get("wall_seconds")
        return float(seconds) if isinstance(seconds, int | float) else None

    def record(self, definition: Definition, trials: Sequence[Trial], settings: Sequence[str]) -> None:
        """Write ``sweep.yaml``: the definition, resolved into labels and cells. ``UsageError`` where another sweep's
        stands: its cells would be in no table any more."""
        self._refuse_another(definition.name)
        plain: dict[str, Any] = {
            "name": definition.name,
            "axes": definition.labels,
            "table": _table(definition.table),
            "base": definition.base,
            "set": without_place([*definition.set, *settings]),
            "levels": {parameter.name: _values(parameter) for parameter in definition.axes},
            "cells": [
                {"labels": dict(trial.labels), "config_sha256": trial.sha256, "folder": self.run_of(trial).path.name}
                for trial in trials
            ],
        }
        write_text(self.path / SWEEP, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        if definition.table is not None and definition.table.reference is not None:
            self._copy_reference(Path(definition.table.reference))

    def _refuse_another(self, name: str) -> None:
        try:
            found = read_sweep(self.path).name
        except DataError:  # none yet, or a damaged one, which is written anew
            return
        if found != name:
            raise UsageError(f"--out {self.path} holds the sweep '{found}', and this one is '{name}'; choose another")

    def _copy_reference(self, source: Path) -> None:
        """Published values go along with the results, wherever those are copied: the bytes as they are."""
        path = self.path / REFERENCE
        try:
            replace_file(path, lambda partial: partial.write_bytes(source.read_bytes()))
        except OSError as error:
            raise RunError(f"cannot copy {source} to {path}: {error.strerror}") from None


def _rounds(run: RunDirectory) -> tuple[Path, Path]:
    """What a resume would go on from. By the last one it is known that there is something."""
    return run.path / "sites", run.checkpoints


def _forget_rounds(run: RunDirectory) -> None:
    """Remove it, and what trackers know of it; ``RunError`` where something stays, with which rounds of two codes would
    be mixed."""
    path = run.path / MEMORY
    try:
        path.unlink(missing_ok=True)
        for path in _rounds(run):
            if os.path.lexists(path):
                shutil.rmtree(path)
    except OSError as error:
        told = "the cell is begun anew, and may not go on from it; remove it by hand"
        raise RunError(f"cannot remove {path}: {reason(error)}; {told}") from None


def _table(table: Table | None) -> dict[str, Any] | None:
    """What is written of the section; published values lie beside it."""
    if table is not None and table.reference is not None:
        table = table.model_copy(update={"reference": REFERENCE})
    return None if table is None else table.model_dump(mode="json", exclude_unset=True)


def _values(parameter: Parameter) -> dict[str, Any]:
    """Label -> what it sets, in the words of ``--set``, and its base."""
    return {
        value.label: {**({"base": value.base} if value.base else {}), "set": without_place(value.settings)}
        for value in parameter.values
    }

"""The directory of a sweep: ``OUT/sweep.yaml``, and a run directory for each trial."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import ConfigError, DataError, FedReconError, RunError, UsageError, describe_error, one_line
from fedrecon_core.files import finish_folder_replacements, reason, replace_file
from fedrecon_core.runtime import choose_device
from server.runs.directory import FolderKind, RunDirectory, locked, write_text
from server.runs.provenance import changes, provenance_here
from server.runs.readers import json_in
from server.runs.tracking import MEMORY, TRIAL
from server.sweep.parameters import without_data_root
from server.sweep.record import LOG, REFERENCE, SWEEP, TRIALS, State, read_result, read_sweep, state_of
from server.sweep.spec import Definition
from server.sweep.trials import SHOWN_DIGITS, StoredConfig, Trial, read_stored_config

LOCK_SECONDS = 1.0
SWEEP_FOLDER = FolderKind("sweep", "give the same command again")
REPORT = "report.html"
ROUNDS = ("sites", "checkpoints")
"""Folders of a run directory that only a resume needs. They are deleted in this order: without ``checkpoints`` a run
has no rounds."""


def device_here(config: RunConfig) -> str | None:
    """The device of a run on this machine; None if the machine lacks the one that the config asks for."""
    try:
        return choose_device(config.device).type
    except ConfigError:
        return None


def device_on_ray(config: RunConfig) -> str:
    """The device of a run that is a Ray task. Ray shows GPUs only to tasks that ask for one (``RayExecutor``)."""
    return "cuda" if config.device == "cuda" else "cpu"


class SweepDirectory:
    """The directory of a sweep. It can be moved, copied and committed.

    ``sweep.yaml`` does not contain the path of the data; the ``config.yaml`` of each trial does (``data.root``), but a
    trial is recognized wherever its data are.

    Args:
        path: the directory.
        keep_checkpoints: whether complete trials keep their checkpoints.
        device: returns the device on which a config would run; None if there is none.
        write_report: writes the report into a run directory, for complete trials without one.
    """

    def __init__(
        self,
        path: Path,
        keep_checkpoints: bool = False,
        device: Callable[[RunConfig], str | None] = device_here,
        write_report: Callable[[Path], object] | None = None,
    ) -> None:
        self.path = path.resolve()
        self._keep_checkpoints = keep_checkpoints
        self._device = device
        self._write_report = write_report
        self._runs: dict[str, RunDirectory] = {}
        self._configs: dict[str, StoredConfig] = {}

    @property
    def runs(self) -> Path:
        """The folder of the run directories."""
        return self.path / TRIALS

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the sweep for this process (``locked``); create its folder if it does not exist.

        Finishes interrupted replacements of run directories that were copied back from another machine.
        """
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None
        with locked(self.path, SWEEP_FOLDER, LOCK_SECONDS):
            finish_folder_replacements(self.runs)
            yield

    # --- reading ---------------------------------------------------------------------------------------------------

    def run_of(self, trial: Trial) -> RunDirectory:
        """The run directory of a trial: the one with its name or, if the config had fewer keys when that was created,
        one with the same labels whose config has the same hash today."""
        if trial.folder not in self._runs:
            path = self.runs / trial.folder
            if not path.exists() and self.runs.is_dir():
                for other in sorted(self.runs.glob(f"{trial.slug}-{'?' * SHOWN_DIGITS}")):
                    if read_stored_config(other / "config.yaml").sha256 == trial.sha256:
                        path = other
                        break
            self._runs[trial.folder] = RunDirectory(path)
        return self._runs[trial.folder]

    def state(self, trial: Trial) -> State:
        """The state of a trial; ``UsageError`` if its folder contains another config."""
        run = self.run_of(trial)
        state = state_of(run.path)
        if state is State.MISSING:
            return state
        self._configs[trial.folder] = stored = read_stored_config(run.config)
        if stored.sha256 != trial.sha256:
            found = "the config of another run; move it away to have the trial run again"
            raise UsageError(f"{run.config}: expected the config of the trial {trial.title}, found {found}")
        return state

    def manifest_of(self, trial: Trial) -> dict[str, Any]:
        """The manifest of a trial; empty if it is missing or damaged."""
        return json_in(self.run_of(trial).path / "manifest.json")

    def seconds_of(self, trial: Trial) -> float | None:
        """The wall-clock time of a complete trial."""
        seconds = read_result(self.run_of(trial).path).get("wall_seconds")
        return float(seconds) if isinstance(seconds, int | float) else None

    def log(self, trial: Trial) -> Path:
        """The file with the output of the trial's process."""
        return self.run_of(trial).path / LOG

    def unknown_runs(self, trials: Sequence[Trial]) -> list[str]:
        """The names of run directories that belong to none of ``trials``, all trials of the sweep."""
        known = {self.run_of(trial).path.name for trial in trials}
        found = sorted(path.name for path in self.runs.iterdir()) if self.runs.is_dir() else []
        return [name for name in found if name not in known and not name.startswith(".")]

    def outdated(self, trial: Trial) -> str:
        """The reason why an unfinished trial with rounds starts over: they were computed by other code, on another
        device or with another PyTorch, and a result must not mix both. Empty if the trial can be resumed."""
        run = self.run_of(trial)
        if run.completed() or not any(run.checkpoints.glob("round-*")):
            return ""
        manifest, device = self.manifest_of(trial), self._device(trial.config)
        if device is None:  # nothing can be computed here, so that the device of the rounds does not matter
            manifest.pop("device", None)
        unknown = ["by unknown code"] if manifest.get("code_sha256") is None else []
        return " and ".join([*unknown, *_differences(manifest, device, trial.config)])

    def provenance_changes(self, trial: Trial) -> list[str]:
        """The differences in code, device, PyTorch and data root between a complete trial and the same trial now.
        Values that its files lack are not counted as differences."""
        found = _differences(self.manifest_of(trial), self._device(trial.config), trial.config)
        stored = self._configs.get(trial.folder) or read_stored_config(self.run_of(trial).config)
        if stored.root != trial.config.data.root:
            found.append(f"with data.root {stored.root or 'unset'} (now: {trial.config.data.root or 'unset'})")
        return found

    # --- writing ---------------------------------------------------------------------------------------------------

    def begin(self, trial: Trial) -> RunDirectory:
        """Prepare the run directory of a trial: write its config, whose ``data.root`` may have changed, and remove the
        result of an earlier attempt and outdated rounds. A trial that has been completed meanwhile stays as it is.

        Raises:
            FedReconError: another process works on the trial, its folder contains another config, or it cannot be
                written.
        """
        run = self.run_of(trial)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{run.path} cannot be written: {error.strerror}") from None
        with run.lock(LOCK_SECONDS):
            if self.state(trial) is State.COMPLETE:
                return run
            if not run.config.is_file() or self.outdated(trial):  # rounds without a config are of an unknown run
                _delete_rounds(run)
            write_text(run.config, trial.config.to_yaml())
            run.write_json(TRIAL, {"name": trial.slug, "labels": dict(trial.labels)})  # for trackers
            run.forget_result()
        return run

    def note_failure(self, trial: Trial, reason: str, rounds: int) -> None:
        """Write ``result.json`` with ``reason`` for a run that left none: its process was killed, lost with its machine
        or did not start. A trial that another process holds, or a folder with another config, is not changed. If the
        file cannot be written, the reason is only in the output of the sweep."""
        run = self.run_of(trial)
        with suppress(FedReconError), run.lock(LOCK_SECONDS):
            if self.state(trial) is State.UNFINISHED and not read_result(run.path):
                run.write_json("result.json", {"status": "failed", "error": reason, "exit_code": 1, "rounds": rounds})

    def tidy(self, trial: Trial) -> None:
        """After a complete run: write its report, if it has none because its process was killed, and delete what only a
        resume needs, unless checkpoints are kept. If the report fails, the trial's log shows it."""
        run = self.run_of(trial)
        if not run.completed():
            return
        if self._write_report and not (run.path / REPORT).exists():
            try:
                self._write_report(run.path)
            except Exception as error:  # the run is complete without it
                with suppress(OSError), self.log(trial).open("a", encoding="utf-8") as file:
                    file.write(f"({REPORT} could not be written: {one_line(describe_error(error))})\n")
        if not self._keep_checkpoints:
            for name in ROUNDS:
                shutil.rmtree(run.path / name, ignore_errors=True)

    def record(self, definition: Definition, trials: Sequence[Trial], settings: Sequence[str]) -> None:
        """Write ``sweep.yaml``, the resolved definition with the list of trials, and a copy of the published values.

        Raises:
            UsageError: the directory is that of a sweep with another name.
        """
        with suppress(DataError):  # none yet, or a damaged one, which is replaced
            found = read_sweep(self.path).name
            if found != definition.name:
                other = f"holds the sweep '{found}', and this one is '{definition.name}'; choose another"
                raise UsageError(f"--out {self.path} {other}")
        table = None if definition.table is None else definition.table.model_dump(mode="json", exclude_unset=True)
        reference = (table or {}).get("reference")
        if table and reference:
            table["reference"] = REFERENCE
        plain: dict[str, Any] = {
            "name": definition.name,
            "axes": definition.labels,
            "table": table,
            "base": definition.base,
            "set": without_data_root([*definition.set, *settings]),
            "levels": {
                parameter.name: {
                    value.label: {
                        **({"base": value.base} if value.base else {}),
                        "set": without_data_root(value.settings),
                    }
                    for value in parameter.values
                }
                for parameter in definition.axes
            },
            "cells": [
                {"labels": dict(trial.labels), "config_sha256": trial.sha256, "folder": self.run_of(trial).path.name}
                for trial in trials
            ],
        }
        write_text(self.path / SWEEP, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        if reference:  # published values are copied together with the results
            copy = self.path / REFERENCE
            try:
                replace_file(copy, lambda partial: partial.write_bytes(Path(reference).read_bytes()))
            except OSError as error:
                raise RunError(f"cannot copy {reference} to {copy}: {error.strerror}") from None


def _differences(manifest: Mapping[str, Any], device: str | None, config: RunConfig) -> list[str]:
    """How a run with ``manifest`` differs in code, device and PyTorch from a run of ``config`` by this process on
    ``device``."""
    found = []
    for change in changes(manifest, provenance_here(device, config.plugins)):
        if change.what == "code":
            found.append(f"by other code ({change.then[:SHOWN_DIGITS]}, now {str(change.now)[:SHOWN_DIGITS]})")
        elif change.what == "device":
            found.append(f"on {change.then} (here: {change.now or 'none'})")
        elif change.what == "torch":
            found.append(f"with PyTorch {change.then} (here: {change.now})")
    return found


def _delete_rounds(run: RunDirectory) -> None:
    """Delete the rounds of a run and the trackers' state; ``RunError`` if something cannot be deleted, since it would
    be mixed with new rounds."""
    path = run.path / MEMORY
    try:
        path.unlink(missing_ok=True)
        for name in ROUNDS:
            path = run.path / name
            if os.path.lexists(path):
                shutil.rmtree(path)
    except OSError as error:
        hint = "the trial starts over and must not resume from it; delete it by hand"
        raise RunError(f"cannot remove {path}: {reason(error)}; {hint}") from None

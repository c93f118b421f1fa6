"""The scheduler of a sweep: chooses the next trial, keeps the executor busy and records how each trial ends."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrecon_core.errors import describe_error, one_line
from server.runs.directory import newest_round
from server.sweep.executor import Executor, LostError
from server.sweep.progress import Board, Running, Times
from server.sweep.record import State
from server.sweep.store import SweepDirectory
from server.sweep.trials import Trial

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Failure:
    """A trial that did not complete, and why."""

    trial: Trial
    reason: str


class Scheduler:
    """Runs trials until none is left. A failed trial is recorded and stops no other."""

    def __init__(self, directory: SweepDirectory, executor: Executor, board: Board) -> None:
        self._directory = directory
        self._executor = executor
        self._board = board
        self._times = board.times
        self._running: dict[Path, Running] = {}
        self._failures: list[Failure] = []

    def run(self, trials: Sequence[Trial]) -> list[Failure]:
        """Run ``trials`` and return those that failed, in the order of their failures.

        Raises:
            LostError: the executor is lost. The trials that were running are recorded as failed, those that waited are
                unchanged.
        """
        self._waiting = list(trials)
        self._show()
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < self._executor.capacity:
                    self._start(self._next())
                self._show()
                for ended in self._executor.wait(POLL_SECONDS) if self._running else ():
                    self._finish(self._running.pop(ended.path), ended.reason)
        except LostError as error:
            for path in list(self._running):
                self._finish(self._running.pop(path), str(error))
            raise
        self._show()
        return self._failures

    def _next(self) -> Trial:
        """The trial with the longest expected time, so that all workers end at about the same time. Trials without one
        come first, starting with families of which none is running: the sooner all times are known, the better."""
        running = {running.trial.family for running in self._running.values()}

        def urgency(trial: Trial) -> tuple[float, bool]:
            known = self._times.family_mean(trial)
            return (math.inf, trial.family not in running) if known is None else (known, False)

        trial = max(self._waiting, key=urgency)  # the first of equals
        self._waiting.remove(trial)
        return trial

    def _start(self, trial: Trial) -> None:
        running = Running(trial, self._directory.run_of(trial).path, time.monotonic(), 0)
        try:
            run = self._directory.begin(trial)
            if run.completed():
                return self._finish(running, "")
            running = replace(running, first=newest_round(run.checkpoints))
            self._executor.start(run.path, trial.config)
        except Exception as error:  # a full disk, no memory for a fork, an odd file: the other trials continue
            return self._finish(running, one_line(describe_error(error)))
        # Measured from here: the very first start waits until the fork server has imported what trials need.
        self._running[run.path] = replace(running, since=time.monotonic())
        self._board.started(running)

    def _finish(self, running: Running, reason: str) -> None:
        seconds = time.monotonic() - running.since
        if reason:
            self._failures.append(Failure(running.trial, reason))
            self._directory.note_failure(running.trial, reason, running.round)
        else:  # a resumed trial has recorded the time of all its rounds
            self._times.add(running.trial, max(seconds, self._directory.seconds_of(running.trial) or 0.0))
            self._directory.tidy(running.trial)
        self._show()
        self._board.ended(running, reason, seconds)

    def _show(self) -> None:
        self._board.update(self._waiting, list(self._running.values()), self._executor.capacity)


def read_times(directory: SweepDirectory, states: Sequence[tuple[Trial, State]]) -> Times:
    """The times of the trials that are complete already."""
    times = Times()
    for trial, state in states:
        seconds = directory.seconds_of(trial) if state is State.COMPLETE else None
        if seconds is not None:
            times.add(trial, seconds)
    return times
